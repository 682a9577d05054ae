"""Samples: posts that were drawn to be labelled, and how they were drawn.

The file of a sample is JSON lines: a line for the sample, then one for each item, in the order in which they are to be
labelled. It holds no scores, so that who labels cannot see them. The labels lie in files of their own (labels.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from moderation.types import Post

SUFFIX = ".sample.jsonl"


class Region(StrEnum):
    """Which groups of a population a sample is drawn from."""

    REMOVE = "remove"  # at or above a threshold: shows precision
    ALLOW = "allow"  # below the threshold `review`: shows misses
    POOL = "pool"  # all of a named pool: shows recall


@dataclass(frozen=True, slots=True)
class Level:
    """A threshold of a grid, and how many groups score at or above it."""

    threshold: float
    population: int


@dataclass(frozen=True, slots=True)
class Sample:
    """How a sample was drawn."""

    policy: str
    policy_version: int
    score_digest: str
    model_name: str
    model_digest: str
    region: Region
    levels: tuple[Level, ...]  # from strict to loose; one unless a grid is tried. ALLOW: `review`, groups below it
    seed: int
    source: str  # a topic or the name of a file
    begins: datetime
    ends: datetime
    drawn_at: datetime


@dataclass(frozen=True, slots=True)
class Item:
    """A group of equal content that was drawn, and a post of it."""

    number: int  # from 1, in the order of labelling
    group: str  # digest of the equal content
    level: int  # index of the strictest level that the group reaches
    post: Post
    files: tuple[Path, ...] = ()  # of its pictures, for the person who labels
