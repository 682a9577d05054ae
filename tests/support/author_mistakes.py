"""Mistakes that authors of policies make, as data: what they write, and what `moderation policies check` says.

Each row changes a sound set: `lakes.yaml` alone in its folder. tests/unit/policies/test_author_mistakes.py holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SOUND = """\
id: lakes
version: 1
title: Lakes
question: Does this post mention a lake?
violates:
  - {id: L1, text: mentions a lake}
  - {id: L2, text: mentions a pond}
allows:
  - {id: L0, text: mentions the sea}
thresholds: {review: 0.5, remove: 0.9}
"""
PONDS = SOUND.replace("lakes", "ponds").replace("Lakes", "Ponds").replace("a lake", "a puddle").replace("sea", "rain")


@dataclass(frozen=True)
class Row:
    """One mistake. `says`: what its message must have, in this order; among it what to write."""

    name: str
    kind: str  # error, warning, or none for what is no mistake
    says: tuple[str, ...]
    at: str  # FILE:LINE
    files: Mapping[str, str | bytes | None] = field(default_factory=dict)  # a folder ends in /; None: the file is away
    links: Mapping[str, str] = field(default_factory=dict)


def edit(name: str, old: str, new: str, kind: str, line: int, *says: str) -> Row:
    """A change of lakes.yaml."""
    assert old in SOUND, old
    return Row(name, kind, says, f"lakes.yaml:{line}", {"lakes.yaml": SOUND.replace(old, new, 1)})


def add(name: str, text: str, kind: str, *says: str, line: int = 11) -> Row:
    """Lines at the end of lakes.yaml."""
    return Row(name, kind, says, f"lakes.yaml:{line}", {"lakes.yaml": f"{SOUND}{text}\n"})


def beside(name: str, file: str, text: str | bytes, kind: str, *says: str, line: int = 1) -> Row:
    """Another file beside lakes.yaml."""
    return Row(name, kind, says, f"{file}:{line}", {file: text})


def instead(name: str, file: str, text: str | bytes, kind: str, *says: str, line: int = 1) -> Row:
    """Another file in place of lakes.yaml."""
    return Row(name, kind, says, f"{file}:{line}", {"lakes.yaml": None, file: text})


def two(name: str, old: str, new: str, kind: str, line: int, *says: str) -> Row:
    """A second policy, ponds.yaml, with a change."""
    assert old in PONDS, old
    return Row(name, kind, says, f"ponds.yaml:{line}", {"ponds.yaml": PONDS.replace(old, new, 1)})
