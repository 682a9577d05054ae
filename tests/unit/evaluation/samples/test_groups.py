"""Which posts are of equal content."""

from __future__ import annotations

import pytest

from moderation.evaluation.samples.groups import folded, group_of
from moderation.types import Image, Post, Problem, Reason
from tests.support.builders import a_post


def group(post: Post, *files: bytes | None) -> str:
    return group_of(post, {index: file for index, file in enumerate(files) if file is not None})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Buy NOW", "buy now"),
        ("  buy\t\tnow\n", "buy now"),
        ("ｂｕｙ now", "buy now"),  # full width
        ("ﬁne", "FINE"),
        ("stra\u00dfe", "STRASSE"),
        ("e\u0301te", "\u00c9TE"),
        ("buy\u00a0now", "buy now"),
        ("\u03ad\u0390", "\u0388\u03aa\u0301"),
    ],
)
def test_a_text_is_equal_in_another_form(one: str, other: str) -> None:
    assert folded(one) == folded(other)
    assert group(a_post("a", one)) == group(a_post("b", other, language="de", surface="comment"))


@pytest.mark.parametrize(("one", "other"), [("buy now", "buynow"), ("résumé", "resume"), ("a b", "b a"), ("", "a")])
def test_another_text_is_another_group(one: str, other: str) -> None:
    assert group(a_post(text=one)) != group(a_post(text=other))


def test_pictures_are_equal_by_their_bytes_whatever_their_place() -> None:
    inline = a_post(images=(Image(data=b"one"), Image(data=b"two")))
    linked = a_post(images=(Image(uri="s3://a/2"), Image(uri="s3://b/1")))
    assert group(inline, b"one", b"two") == group(linked, b"two", b"one")
    assert group(inline, b"one", b"two") != group(inline, b"one", b"one")
    assert group(inline, b"one", b"two") != group(a_post(images=inline.images[:1]), b"one")
    assert group(a_post()) != group(a_post(images=(Image(data=b""),)), b"")


def test_alternative_texts_count_as_texts_do() -> None:
    def with_alt(alt: str) -> str:
        return group(a_post(images=(Image(data=b"one", alt=alt),)), b"one")

    assert with_alt("A  lake") == with_alt("a lake")
    assert with_alt("a lake") != with_alt("a sea")
    assert with_alt("") != group(a_post(text="a lake a lake", images=(Image(data=b"one"),)), b"one")


def test_what_could_not_be_had_counts_as_it_was_sent() -> None:
    problem = Problem(Reason.IMAGE_NOT_FOUND, "images[0].uri")
    here, there = (a_post(images=(Image(uri=uri, problem=problem),)) for uri in ("s3://a/1", "s3://a/2"))
    assert group(here) != group(there)
    assert group(here) != group(here, b"s3://a/1")
