"""The text that is judged: the post's own and the alternative texts, within a bound of memory."""

from __future__ import annotations

from moderation.media.text import GAP, text_of
from moderation.settings import MediaSettings
from moderation.types import Image, Problem, Reason
from tests.support.builders import a_post

LIMITS = MediaSettings(max_text_chars=10)


def test_a_post_without_alternative_texts_keeps_its_text() -> None:
    assert text_of(a_post(text=" as it is\n"), LIMITS) == (" as it is\n", ())
    assert text_of(a_post(text="words", images=(Image(data=b"", alt=" "),)), LIMITS) == ("words", ())


def test_of_a_long_text_the_beginning_and_the_end_are_kept() -> None:
    problem = Problem(Reason.TEXT_TOO_LONG, "text")
    assert text_of(a_post(text="0123456789"), LIMITS) == ("0123456789", ())
    assert text_of(a_post(text="0123456789a"), LIMITS) == (f"01234{GAP}6789a", (problem,))
    assert text_of(a_post(text="0123"), MediaSettings(max_text_chars=3)) == (f"01{GAP}3", (problem,))
    assert text_of(a_post(text="0123"), MediaSettings(max_text_chars=1)) == (f"0{GAP}", (problem,))


def test_long_alternative_texts_cannot_hide_the_text() -> None:
    images = Image(data=b"", alt="x" * 6), Image(data=b"", alt="short")
    text, problems = text_of(a_post(text="words", images=images), LIMITS)
    assert text == f"words\n\nAlternative text of image 1: xxx{GAP}xx\n\nAlternative text of image 2: short"
    assert problems == (Problem(Reason.TEXT_TOO_LONG, "images[0].alt"),)
    assert problems[0].of_text
