"""Golden sets: posts whose label is known, as JSON lines beside a policy. policies/README.md describes the format."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moderation.errors import ConfigError, cause_of
from moderation.evaluation.posts.posts import FORM, WrongLineError, members_of, post_of
from moderation.policies import Policy
from moderation.policies.loading import Read, read_folder
from moderation.policies.mistakes import Kind, Mistake, located
from moderation.settings import MediaSettings
from moderation.types import Post

SUFFIX = ".golden.jsonl"  # behind the id of a policy
VIOLATES, ALLOWED = "violates", "allowed"  # labels beside the ids of clauses
KEYS = ("post", "label", "source", "split", "slices", "certificate", "drawn")
SOURCES = ("seed", "appeal", "qa", "attack")
SPLITS = ("dev", "cert")
NEAR = "near"  # the slice of an allowed post that names the clause which it nearly violates
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

    @property
    def name(self) -> str:
        """The post's id, and its line where the id does not say it."""
        line = f"line-{self.line}"
        return line if self.post.id == line else f"{self.post.id} (line {self.line})"


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """The posts of a file. folders: those of the pictures that lie in files."""

    path: Path
    posts: tuple[Labelled, ...]
    folders: frozenset[Path]
    digest: str  # SHA-256 of the file, in hex


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


def lint(folder: Path, media: MediaSettings) -> Iterator[Mistake]:
    """What is wrong with the golden sets of a folder of policies: errors in them, and clauses that they do not show.

    A policy that is never asked needs no set. Files that are no policies are not its matter.
    """
    for file in read_folder(folder)[0]:
        path = beside(file.policy, folder)
        if path is None:
            yield from _missing(file)
            continue
        golden, mistakes = _read(path, file.policy, media)
        yield from mistakes or _uncovered(file, golden)


def _missing(file: Read) -> Iterator[Mistake]:
    policy, (path, node) = file.policy, (file.document.path, file.document.node)
    if policy.golden:
        text = f"there is no such file beside the policy: write {policy.golden}, or delete the key"
        yield located(path, node, ("golden",), text)
    elif policy.asked:
        text = f"the policy has no golden set, so nothing shows what it does: write {policy.id}{SUFFIX} beside it"
        yield located(path, node, ("id",), text, kind=Kind.WARNING)


def _uncovered(file: Read, golden: GoldenSet) -> Iterator[Mistake]:
    """Clauses without a case: one that forbids needs a post that violates it, and one that nearly does."""
    policy, (path, node) = file.policy, (file.document.path, file.document.node)
    shown = {each.clause for each in golden.posts}
    near = {each.slices.get(NEAR) for each in golden.posts if not each.violates}
    forbids = [clause.id for clause in policy.violates]
    for each in golden.posts:
        if each.slices.get(NEAR, forbids[0]) not in forbids:
            text = f"slices.{NEAR}: no clause that forbids has this id: write one of {', '.join(forbids)}"
            yield Mistake(Kind.WARNING, golden.path, each.line, text)

    def warning(key: str, place: int, text: str) -> Mistake:
        return located(path, node, (key, place), f"{golden.path.name} {text}", kind=Kind.WARNING)

    for place, clause in enumerate(policy.violates):
        if clause.id not in shown:
            yield warning("violates", place, f"has no post that violates {clause.id}: add one with this label")
        if clause.id not in near:
            slices = f'"slices": {{"{NEAR}": "{clause.id}"}}'
            yield warning("violates", place, f"has no near miss of {clause.id}: add an allowed post with {slices}")
    for place, clause in enumerate(policy.allows):
        if clause.id not in shown:
            yield warning("allows", place, f"has no post that {clause.id} allows: add one with this label")


def _read(path: Path, policy: Policy, media: MediaSettings) -> tuple[GoldenSet, list[Mistake]]:
    reading = _Reading(path, policy, media)
    posts: list[Labelled] = []
    mistakes: list[Mistake] = []

    def wrong(line: int, text: str) -> None:
        mistakes.append(Mistake(Kind.ERROR, path, line, text))

    try:
        data = path.read_bytes()
    except OSError as error:
        wrong(0, f"not readable: {cause_of(error)}")
        data = b""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            posts.append(_labelled(members_of(line), number, reading))
        except WrongLineError as mistake:
            wrong(number, f"{mistake}")
    if not posts and not mistakes:
        wrong(0, f"holds no post: write one a line, as in {FORM}")
    digest = hashlib.sha256(data).hexdigest()
    return GoldenSet(path, tuple(posts), frozenset(reading.folders), digest), mistakes


def rows(
    lines: Iterable[tuple[int, Mapping[str, Any]]], path: Path, policy: Policy, media: MediaSettings
) -> Iterator[tuple[int, Labelled | WrongLineError]]:
    """What lines of another file say, each with its number, as those of a golden set would. path: that file's."""
    reading = _Reading(path, policy, media)
    for number, members in lines:
        try:
            yield number, _labelled(members, number, reading)
        except WrongLineError as mistake:
            yield number, mistake


def _labelled(members: Mapping[str, Any], number: int, reading: _Reading) -> Labelled:
    for key in members:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            meant = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(KEYS)}"
            raise WrongLineError(f"{key}: there is no such key; {meant}")
    for key in ("post", "label"):
        if key not in members:
            raise WrongLineError(f"{key}: this key is missing: a line is as in {FORM}")
    violates, clause = _label(members["label"], reading.policy)
    post, folders = post_of(members["post"], number, reading.path.parent, reading.media)
    reading.folders |= folders
    if post.id in reading.ids:
        raise WrongLineError(f"post.id: line {reading.ids[post.id]} has this id, too: give each post its own, or none")
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
            raise WrongLineError(f'{key}: a row that a certificate used has "split": "cert": write that')
    id, draw = members.get("certificate", ""), members.get("drawn")
    if "certificate" in members and not (isinstance(id, str) and CERTIFICATE.fullmatch(id)):
        raise WrongLineError("certificate: must be the id of a certificate, 16 digits as in 0123456789abcdef")
    if draw is None:
        return id, None
    if not id:
        raise WrongLineError("drawn: names no certificate: add the key certificate, or delete this one")
    if not isinstance(draw, dict) or draw.keys() != {"group", "seed"} or not _is_draw(draw["group"], draw["seed"]):
        raise WrongLineError('drawn: must be as certify writes it: {"group": 64 digits, "seed": a number}')
    drawn = Drawn(draw["group"], draw["seed"])
    if drawn in reading.draws:
        raise WrongLineError(
            f"drawn: line {reading.draws[drawn]} has this draw, too: a label counts for one certificate; delete one"
        )
    reading.draws[drawn] = number
    return id, drawn


def _is_draw(group: object, seed: object) -> bool:
    return isinstance(group, str) and bool(GROUP.fullmatch(group)) and type(seed) is int and seed >= 0


def _label(label: object, policy: Policy) -> tuple[bool, str]:
    """Whether a post with this label violates the policy, and the clause that it names."""
    if label in (VIOLATES, ALLOWED):
        return label == VIOLATES, ""
    clauses = {clause.id: True for clause in policy.violates} | {clause.id: False for clause in policy.allows}
    if isinstance(label, str) and label in clauses:
        return clauses[label], label
    known = ", ".join([VIOLATES, ALLOWED, *clauses])
    raise WrongLineError(
        f"label: must be {VIOLATES}, {ALLOWED} or a clause of the policy {policy.id}: write one of {known}"
    )


def _one_of(key: str, value: object, known: Sequence[str]) -> str:
    if isinstance(value, str) and value in known:
        return value
    raise WrongLineError(f"{key}: must be one of {', '.join(known)}: write one of these, or leave it out")


def _slices(value: object) -> Mapping[str, str]:
    if isinstance(value, dict) and all(isinstance(word, str) and word for pair in value.items() for word in pair):
        return value
    raise WrongLineError('slices: must be an object of texts, as in {"surface": "comment"}')
