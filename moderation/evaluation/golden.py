"""Golden sets: posts whose label is known, as JSON lines beside a policy. policies/README.md describes the format."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moderation import wire
from moderation.errors import ConfigError, PostError
from moderation.policies import Policy
from moderation.policies.mistakes import Kind, Mistake
from moderation.settings import MediaSettings
from moderation.types import Post
from moderation.wire.advice import advice

SUFFIX = ".golden.jsonl"  # behind the id of a policy
VIOLATES, ALLOWED = "violates", "allowed"  # labels beside the ids of clauses
KEYS = ("post", "label", "source", "split", "slices", "certificate", "drawn")
SOURCES = ("seed", "appeal", "qa", "attack")
SPLITS = ("dev", "cert")
FORM = '{"post": {"text": "I saw a lake"}, "label": "violates"}'
MOST_BYTES = 64 << 20  # of a line
CERTIFICATE, GROUP = re.compile(r"[0-9a-f]{16}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Drawn:
    """The draw that a label comes from: the group of equal content, and the seed."""

    group: str
    seed: int


@dataclass(frozen=True, slots=True)
class Labelled:
    """A post whose label is known."""

    line: int  # of its file, from 1
    post: Post
    violates: bool
    clause: str  # the clause that the label names; empty: none
    source: str  # one of SOURCES: where the label comes from
    split: str  # `dev` may be looked at; `cert` is for one certificate
    slices: Mapping[str, str]  # what the post is one of, such as surface: comment
    certificate: str = ""  # id of the certificate that used the label up; empty: none
    drawn: Drawn | None = None  # for that certificate


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """The posts of a file. folders: those of the pictures that lie in files."""

    path: Path
    posts: tuple[Labelled, ...]
    folders: frozenset[Path]


class _WrongLineError(Exception):
    """What is wrong with a line, and what to write."""


@dataclass(slots=True)
class _Reading:
    """What has been read of a file."""

    path: Path
    policy: Policy
    media: MediaSettings
    ids: dict[str, int] = field(default_factory=dict)  # with the line of each
    draws: dict[Drawn, int] = field(default_factory=dict)  # the same
    folders: set[Path] = field(default_factory=set)


def beside(policy: Policy, folder: Path) -> Path | None:
    """The golden set of a policy, as its file names it or by the usual name; None: it has none."""
    path = folder / (policy.golden or f"{policy.id}{SUFFIX}")
    return path if path.is_file() else None


def read(path: Path, policy: Policy, media: MediaSettings) -> GoldenSet:
    """The golden set of a policy in a file. Raises ConfigError with a line for each mistake: file, line, what to do."""
    golden, mistakes = _read(path, policy, media)
    if mistakes:
        raise ConfigError("\n".join(map(str, mistakes)))
    return golden


def mistakes_of(path: Path, policy: Policy, media: MediaSettings) -> list[Mistake]:
    """The mistakes for which `read` raises, in the order of lines."""
    return _read(path, policy, media)[1]


def _read(path: Path, policy: Policy, media: MediaSettings) -> tuple[GoldenSet, list[Mistake]]:
    reading = _Reading(path, policy, media)
    posts: list[Labelled] = []
    mistakes: list[Mistake] = []

    def wrong(line: int, text: str) -> None:
        mistakes.append(Mistake(Kind.ERROR, path, line, text))

    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        wrong(0, f"not readable: {(error.strerror or 'no reason given').lower()}")
        lines = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            posts.append(_labelled(line, number, reading))
        except _WrongLineError as mistake:
            wrong(number, f"{mistake}")
    if not posts and not mistakes:
        wrong(0, f"holds no post: write one a line, as in {FORM}")
    return GoldenSet(path, tuple(posts), frozenset(reading.folders)), mistakes


def _labelled(line: bytes, number: int, reading: _Reading) -> Labelled:
    members = _members(line)
    for key in members:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            meant = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(KEYS)}"
            raise _WrongLineError(f"{key}: there is no such key; {meant}")
    for key in ("post", "label"):
        if key not in members:
            raise _WrongLineError(f"{key}: this key is missing: a line is as in {FORM}")
    violates, clause = _label(members["label"], reading.policy)
    post = _post(members["post"], number, reading)
    if post.id in reading.ids:
        raise _WrongLineError(f"post.id: line {reading.ids[post.id]} has this id, too: give each post its own, or none")
    reading.ids[post.id] = number
    split = _one_of("split", members.get("split", SPLITS[0]), SPLITS)
    certificate, drawn = _used(members, split, number, reading)
    return Labelled(
        line=number,
        post=post,
        violates=violates,
        clause=clause,
        source=_one_of("source", members.get("source", SOURCES[0]), SOURCES),
        split=split,
        slices=_slices(members.get("slices", {})),
        certificate=certificate,
        drawn=drawn,
    )


def _used(members: Mapping[str, Any], split: str, number: int, reading: _Reading) -> tuple[str, Drawn | None]:
    """The certificate that used a row up, and its draw. `moderation policies certify` writes both."""
    for key in ("certificate", "drawn"):
        if key in members and split != "cert":
            raise _WrongLineError(f'{key}: a row that a certificate used has "split": "cert": write that')
    id, draw = members.get("certificate", ""), members.get("drawn")
    if "certificate" in members and not (isinstance(id, str) and CERTIFICATE.fullmatch(id)):
        raise _WrongLineError("certificate: must be the id of a certificate, 16 digits as in 0123456789abcdef")
    if draw is None:
        return id, None
    if not id:
        raise _WrongLineError("drawn: names no certificate: add the key certificate, or delete this one")
    if not isinstance(draw, dict) or draw.keys() != {"group", "seed"} or not _is_draw(draw["group"], draw["seed"]):
        raise _WrongLineError('drawn: must be as certify writes it: {"group": 64 digits, "seed": a number}')
    drawn = Drawn(draw["group"], draw["seed"])
    if drawn in reading.draws:
        raise _WrongLineError(
            f"drawn: line {reading.draws[drawn]} has this draw, too: a label counts for one certificate; delete one"
        )
    reading.draws[drawn] = number
    return id, drawn


def _is_draw(group: object, seed: object) -> bool:
    return isinstance(group, str) and bool(GROUP.fullmatch(group)) and type(seed) is int and seed >= 0


def _members(line: bytes) -> dict[str, Any]:
    if len(line) > MOST_BYTES:
        raise _WrongLineError(f"the line has more than {MOST_BYTES >> 20} MiB: put pictures into files, and name these")
    try:
        members = json.loads(line.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise _WrongLineError("not UTF-8: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise _WrongLineError(f"not JSON in column {error.colno} ({error.msg}): a line is as in {FORM}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; thousands of brackets
        raise _WrongLineError(f"no post has such a value: a line is as in {FORM}") from None
    if not isinstance(members, dict):
        raise _WrongLineError(f"must be an object, as in {FORM}")
    return members


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _WrongLineError(f"{twice}: given twice in one object; delete one")
    return members


def _label(label: object, policy: Policy) -> tuple[bool, str]:
    """Whether a post with this label violates the policy, and the clause that it names."""
    if label in (VIOLATES, ALLOWED):
        return label == VIOLATES, ""
    clauses = {clause.id: True for clause in policy.violates} | {clause.id: False for clause in policy.allows}
    if isinstance(label, str) and label in clauses:
        return clauses[label], label
    known = ", ".join([VIOLATES, ALLOWED, *clauses])
    raise _WrongLineError(
        f"label: must be {VIOLATES}, {ALLOWED} or a clause of the policy {policy.id}: write one of {known}"
    )


def _one_of(key: str, value: object, known: Sequence[str]) -> str:
    if isinstance(value, str) and value in known:
        return value
    raise _WrongLineError(f"{key}: must be one of {', '.join(known)}: write one of these, or leave it out")


def _slices(value: object) -> Mapping[str, str]:
    if isinstance(value, dict) and all(isinstance(word, str) and word for pair in value.items() for word in pair):
        return value
    raise _WrongLineError('slices: must be an object of texts, as in {"surface": "comment"}')


def _post(members: object, number: int, reading: _Reading) -> Post:
    """The post, read as one from the topic. An image may have `file`: a path from the folder of the golden set."""
    if not isinstance(members, dict):
        raise _WrongLineError(f"post: must be an object, as in {FORM}")
    images = members.get("images")
    if isinstance(images, list):
        members = members | {"images": [_image(image, place, reading) for place, image in enumerate(images)]}
    value = json.dumps({"id": f"line-{number}", **members}).encode()
    try:
        post = wire.post_record(value, (("content-type", b"application/json"),), reading.media)
    except PostError as error:
        raise _WrongLineError(_of_problem(error.problem.path, *advice(error.problem))) from None
    for image in post.images:
        if image.problem is not None:
            raise _WrongLineError(_of_problem(image.problem.path, *advice(image.problem)))
    if not post.has_text and not post.has_images:
        raise _WrongLineError("post: it has neither text nor images: write one of them")
    return post


def _of_problem(path: str, what: str, remedy: str) -> str:
    return f"{f'post.{path}' if path else 'post'}: {what} {remedy}"


def _image(image: Any, place: int, reading: _Reading) -> Any:
    """An image of a post, with a reference in place of the name of a file."""
    if not isinstance(image, dict) or "file" not in image:
        return image
    key = f"post.images[{place}].file"
    name = image["file"]
    if image.get("uri") or image.get("data"):
        raise _WrongLineError(f"{key}: an image has one of file, uri and data: delete the others")
    if not isinstance(name, str) or not name or "\0" in name or Path(name).is_absolute():
        raise _WrongLineError(f"{key}: must be a path from {reading.path.parent}, as in pictures/lake.jpg")
    path = (reading.path.parent / name).resolve()
    if not path.is_file():
        raise _WrongLineError(f"{key}: there is no such file: name one by its path from {reading.path.parent}")
    reading.folders.add(path.parent)
    return {**{member: value for member, value in image.items() if member != "file"}, "uri": path.as_uri()}
