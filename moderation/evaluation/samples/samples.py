"""Samples: posts that were drawn to be labelled, and how they were drawn.

The file of a sample is JSON lines: a line for the sample, then one for each item, in the order in which they are to be
labelled. It holds no scores, so that who labels cannot see them. The labels lie in files of their own (labels.py).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from moderation.errors import ConfigError, cause_of
from moderation.types import Detail, Image, Post, Problem, Reason

SUFFIX = ".sample.jsonl"


class Region(StrEnum):
    """Which groups of a population a sample is drawn from."""

    REMOVE = "remove"  # at or above a threshold: shows precision
    ALLOW = "allow"  # below the threshold `review`: shows misses
    POOL = "pool"  # all of a named pool: shows recall
    FLIPS = "flips"  # those that one version of the policy flags and the other does not: certifies nothing


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
    level: int  # index of the strictest level that the group reaches; len(levels): of a pool, it reaches none
    post: Post
    files: tuple[Path, ...] = ()  # of its pictures, for the person who labels


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, strict=True)]


class _Level(_Part):
    threshold: Share
    population: Count


class _Head(_Part):
    """The line of the sample. items: how many lines follow."""

    format: Literal[1] = 1
    policy: str
    policy_version: int
    score_digest: Digest
    model_name: str
    model_digest: Digest
    region: Region
    levels: Annotated[tuple[_Level, ...], Field(min_length=1)]
    seed: Count
    source: str
    begins: AwareDatetime
    ends: AwareDatetime
    drawn_at: AwareDatetime
    items: Count


class _Problem(_Part):
    reason: Reason
    path: str
    detail: Detail | None = None


class _Image(_Part):
    data: Base64Bytes | None = None
    uri: str | None = None
    alt: str = ""
    problem: _Problem | None = None


class _Post(_Part):
    id: str
    text: str = ""
    images: tuple[_Image, ...] = ()
    tenant: str = ""
    language: str = ""
    surface: str = ""


class _Line(_Part):
    number: Annotated[int, Field(ge=1, strict=True)]
    group: Digest
    level: Count
    post: _Post
    files: tuple[str, ...] = ()


P = TypeVar("P", bound=BaseModel)

REMEDY = "take the file from where you keep it, or draw the sample again"


def write(path: Path, sample: Sample, items: Sequence[Item]) -> None:
    """Writes a new file, which its owner alone may read: it holds posts. Returns once it is on the disk.

    Files of pictures in the same folder are named by their path from there. Raises ConfigError, also where the file
    exists: labels may belong to it.
    """
    levels = tuple(_Level(threshold=level.threshold, population=level.population) for level in sample.levels)
    members = {name: getattr(sample, name) for name in Sample.__slots__ if name != "levels"}
    head = _Head(**members, levels=levels, items=len(items))
    lines = [head.model_dump_json(), *(_line(item, path.parent) for item in items)]
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(b"".join(line.encode() + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise ConfigError(f"{path}: exists, and labels may belong to it: name another file") from None
    except OSError as error:
        raise ConfigError(f"{path}: not written: {cause_of(error)}") from None


def read(path: Path) -> tuple[Sample, tuple[Item, ...]]:
    """The sample in a file. Raises ConfigError: file, line, what to do."""
    sample, items, _ = read_with_digest(path)
    return sample, items


def read_with_digest(path: Path) -> tuple[Sample, tuple[Item, ...], str]:
    """As `read`, and the SHA-256 of the file, which its labels name."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {cause_of(error)}") from None
    lines = data.removesuffix(b"\n").split(b"\n")
    head = _parsed(_Head, lines[0], f"{path}:1")
    found = [_parsed(_Line, line, f"{path}:{number}") for number, line in enumerate(lines[1:], 2)]
    if len(found) != head.items or not data.endswith(b"\n"):
        raise ConfigError(f"{path}: it is cut: line 1 says {head.items} items, and {len(found)} follow: {REMEDY}")
    levels = tuple(Level(level.threshold, level.population) for level in head.levels)
    members = {name: getattr(head, name) for name in Sample.__slots__ if name != "levels"}
    sample = Sample(**members, levels=levels)
    _check(path, sample, found)
    items = tuple(
        Item(line.number, line.group, line.level, _post(line.post), tuple(path.parent / name for name in line.files))
        for line in found
    )
    return sample, items, hashlib.sha256(data).hexdigest()


def _check(path: Path, sample: Sample, lines: Sequence[_Line]) -> None:
    """Raises ConfigError unless each item is there once, in order, and has a level."""
    highest = len(sample.levels) - (sample.region is not Region.POOL)
    groups: dict[str, int] = {}
    for place, line in enumerate(lines):
        at = f"{path}:{place + 2}"
        if line.number != place + 1:
            raise ConfigError(f"{at}: number: must be {place + 1}: {REMEDY}")
        if line.group in groups:
            raise ConfigError(f"{at}: group: line {groups[line.group]} has this group, too: {REMEDY}")
        if line.level > highest:
            raise ConfigError(f"{at}: level: line 1 has {len(sample.levels)} levels: {REMEDY}")
        groups[line.group] = place + 2


def _parsed(model: type[P], line: bytes, at: str) -> P:
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "the line"
        what = "not readable" if first["type"] == "json_invalid" else first["msg"].lower()
        raise ConfigError(f"{at}: {key}: {what}: {REMEDY}") from None


def _line(item: Item, folder: Path) -> str:
    post = item.post
    files = [str(file.relative_to(folder) if file.is_relative_to(folder) else file.absolute()) for file in item.files]
    labels = {name: getattr(post, name) for name in ("id", "text", "tenant", "language", "surface")}
    members = {
        "number": item.number,
        "group": item.group,
        "level": item.level,
        "post": {**labels, "images": [_image_members(image) for image in post.images]},
        "files": files,
    }
    return json.dumps(members, ensure_ascii=False)


def _image_members(image: Image) -> dict[str, Any]:
    """What is set of an image. A reference may be refused for half a character, which no JSON holds."""
    members: dict[str, Any] = {"alt": image.alt} if image.alt else {}
    if image.data is not None:
        members["data"] = base64.b64encode(image.data).decode()
    if image.uri is not None:
        members["uri"] = image.uri.encode("utf-8", "replace").decode()
    if image.problem is not None:
        members["problem"] = {name: getattr(image.problem, name) for name in Problem.__slots__}
    return members


def _post(post: _Post) -> Post:
    images = tuple(Image(image.data, image.uri, image.alt, _problem(image.problem)) for image in post.images)
    return Post(post.id, post.text, images, post.tenant, post.language, post.surface)


def _problem(problem: _Problem | None) -> Problem | None:
    return Problem(problem.reason, problem.path, problem.detail) if problem else None
