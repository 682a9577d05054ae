"""What two versions of a policy set say differently."""

from __future__ import annotations

import random

from moderation.evaluation.changes import wording
from moderation.evaluation.changes.wording import Part, Piece
from tests.support.builders import a_policy


def joined(pieces: tuple[Piece, ...], *parts: Part) -> str:
    return "".join(piece.text for piece in pieces if piece.part in parts)


def test_whole_words_change() -> None:
    pieces = wording.words("shows a lake, or a pond", "shows a lane, or a pond")
    assert [piece for piece in pieces if piece.part is not Part.SAME] == [
        Piece(Part.GONE, "lake"),
        Piece(Part.NEW, "lane"),
    ]


def test_words_that_change_side_by_side_are_one_change() -> None:
    pieces = wording.words("a post that sells guns", "a post that buys knives")
    assert pieces == (
        Piece(Part.SAME, "a post that "),
        Piece(Part.GONE, "sells guns"),
        Piece(Part.NEW, "buys knives"),
    )


def test_the_pieces_join_to_both_texts() -> None:
    draw = random.Random(20)
    alphabet = ["lake", "pond", " ", "  ", "\n", ",", "ß", "見", "\t"]
    for _ in range(500):
        old, new = ("".join(draw.choices(alphabet, k=draw.randrange(30))) for _ in range(2))
        pieces = wording.words(old, new)
        assert joined(pieces, Part.SAME, Part.GONE) == old, (old, new)
        assert joined(pieces, Part.SAME, Part.NEW) == new, (old, new)


def test_lines_that_stay_are_left_out() -> None:
    pieces = wording.words("Policy: Lakes\n- mentions a lake\nYes?", "Policy: Lakes\n- shows a lake\nYes?")
    (line,) = wording.changed_lines(pieces)
    assert joined(line, Part.SAME, Part.NEW) == "- shows a lake"
    assert joined(line, Part.SAME, Part.GONE) == "- mentions a lake"


def test_each_policy_that_differs_is_named_with_what_differs() -> None:
    old = [a_policy("a"), a_policy("b"), a_policy("gone"), a_policy("same")]
    new = [
        a_policy("a", question="Is there a lake?", version=2),
        a_policy("b", thresholds={"review": 0.4, "remove": 0.9}, applies_to={"media": ["text"]}),
        a_policy("new"),
        a_policy("same", golden="other.jsonl", version=3),  # nothing that decides
    ]
    first, second, gone, added = wording.compared(old, new)
    assert (first.id, first.keys, first.unraised) == ("a", (), False)
    assert joined(first.words, Part.NEW)
    assert (second.id, second.words, second.unraised) == ("b", (), True)
    assert [(key.key, key.old, key.new) for key in second.keys] == [
        ("applies_to.media", "text, image", "text"),
        ("thresholds.review", "0.5", "0.4"),
    ]
    assert (gone.id, gone.new, added.id, added.old) == ("gone", None, "new", None)
    assert joined(added.words, Part.NEW) == a_policy("new").prose
    assert wording.compared(old, old) == ()
