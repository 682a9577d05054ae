"""What two versions of a policy set say differently: the words that the model reads, and the keys that decide."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from moderation.policies import Policy

# Whole words and spaces, so that a diff joins to the text again.
TOKENS = re.compile(r"\n|[^\S\n]+|\w+|[^\w\s]")
# Keys that are no words for the model. `golden`, `attack` and `gate` decide nothing of a post.
NUMBERS = ("status", "severity", "applies_to", "thresholds", "on_error", "certificate")


class Part(StrEnum):
    """What became of a piece of text."""

    SAME = "same"
    GONE = "gone"  # in the old text alone
    NEW = "new"  # in the new text alone


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text in both versions, or in one."""

    part: Part
    text: str


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key of a policy file with another value."""

    key: str  # as in thresholds.review
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """What became of one policy. A policy that is in one set alone has one version alone."""

    id: str
    old: Policy | None
    new: Policy | None
    words: tuple[Piece, ...]  # of the prose that the model reads; empty: the same words
    keys: tuple[KeyChange, ...]

    @property
    def unraised(self) -> bool:
        """Whether it is changed, and its version is not higher."""
        return self.old is not None and self.new is not None and self.new.version <= self.old.version


def compared(old: Iterable[Policy], new: Iterable[Policy]) -> tuple[PolicyChange, ...]:
    """The policies that differ in words or in what decides, in the order of their ids."""
    before, after = {policy.id: policy for policy in old}, {policy.id: policy for policy in new}
    changes = []
    for id in sorted(before.keys() | after.keys()):
        first, second = before.get(id), after.get(id)
        change = PolicyChange(id, first, second, _words_of(first, second), _keys_of(first, second))
        if change.words or change.keys or first is None or second is None:
            changes.append(change)
    return tuple(changes)


def words(old: str, new: str) -> tuple[Piece, ...]:
    """The pieces of both texts, in order. SAME and GONE join to the old one, SAME and NEW to the new one."""
    first, second = TOKENS.findall(old), TOKENS.findall(new)
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    pieces: list[Piece] = []
    for same, from_old, to_old, from_new, to_new in _readable(matcher.get_opcodes(), first):
        if same:
            pieces.append(Piece(Part.SAME, "".join(first[from_old:to_old])))
            continue
        pieces += [
            Piece(part, text)
            for part, text in (
                (Part.GONE, "".join(first[from_old:to_old])),
                (Part.NEW, "".join(second[from_new:to_new])),
            )
            if text
        ]
    return tuple(pieces)


def changed_lines(pieces: Sequence[Piece]) -> tuple[tuple[Piece, ...], ...]:
    """The lines of a diff in which something is changed."""
    lines: list[list[Piece]] = [[]]
    for piece in pieces:
        first, *rest = piece.text.split("\n")
        lines[-1].append(Piece(piece.part, first))
        for text in rest:
            lines.append([Piece(piece.part, text)])
    return tuple(
        tuple(piece for piece in line if piece.text)
        for line in lines
        if any(piece.part is not Part.SAME and piece.text for piece in line)
    )


_Code = tuple[bool, int, int, int, int]  # whether it is the same; from and to in the old tokens, and in the new ones


def _readable(codes: Sequence[tuple[str, int, int, int, int]], tokens: Sequence[str]) -> list[_Code]:
    """The codes, in which a lone space between two changes is part of the change: words change, and not letters."""
    joined: list[_Code] = []
    for place, (tag, *ends) in enumerate(codes):
        same = tag == "equal"
        inner = 0 < place < len(codes) - 1
        if same and inner and "".join(tokens[ends[0] : ends[1]]).isspace() and "\n" not in tokens[ends[0] : ends[1]]:
            same = False
        if joined and not same and not joined[-1][0]:
            last = joined.pop()
            joined.append((False, last[1], ends[1], last[3], ends[3]))
        else:
            joined.append((same, ends[0], ends[1], ends[2], ends[3]))
    return joined


def _words_of(old: Policy | None, new: Policy | None) -> tuple[Piece, ...]:
    before, after = old.prose if old else "", new.prose if new else ""
    return words(before, after) if before != after else ()


def _keys_of(old: Policy | None, new: Policy | None) -> tuple[KeyChange, ...]:
    if old is None or new is None:
        return ()
    before, after = _flat(old), _flat(new)
    return tuple(
        KeyChange(key, before.get(key, "-"), after.get(key, "-"))
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key)
    )


def _flat(policy: Policy) -> dict[str, str]:
    """What decides, by key, in the words of a policy file."""
    values: dict[str, Any] = policy.model_dump(mode="json", include=set(NUMBERS))
    flat: dict[str, str] = {}
    for key in NUMBERS:
        value = values[key]
        for path, each in (
            ((f"{key}.{name}", part) for name, part in value.items()) if isinstance(value, dict) else ((key, value),)
        ):
            flat[path] = (
                ", ".join(each)
                if isinstance(each, list)
                else "-"
                if each is None
                else f"{each:g}"
                if isinstance(each, float)
                else f"{each}"
            )
    return flat
