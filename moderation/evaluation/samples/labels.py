"""Labels: what people say of the items of a sample, in a file beside it for each of them, and what is settled so.

The file of labels of anna, of spam.sample.jsonl, is spam.anna.labels.jsonl. It grows by a line for each label, and each
line is on the disk before the next item is shown. The last line for an item counts. Where two people differ, an item
is disputed until somebody has decided it in spam.adjudication.labels.jsonl.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from io import FileIO
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from moderation.errors import ConfigError, cause_of
from moderation.evaluation.samples import samples
from moderation.evaluation.samples.samples import Item, Sample
from moderation.policies import Policy

SUFFIX = ".labels.jsonl"
ADJUDICATION = "adjudication"  # in place of a labeller's name
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # of a labeller


class Said(StrEnum):
    """What one person says of an item."""

    VIOLATES = "violates"
    ALLOWED = "allowed"
    UNDECIDABLE = "undecidable"  # it cannot be labelled
    UNDONE = "undone"  # the label before was a mistake


class Settled(StrEnum):
    """What is settled of an item."""

    VIOLATES = "violates"
    ALLOWED = "allowed"
    UNDECIDABLE = "undecidable"  # all say that it cannot be labelled; it counts against the policy
    DISPUTED = "disputed"  # people differ, and nobody has decided; it counts against the policy
    UNLABELLED = "unlabelled"  # a label is missing


@dataclass(frozen=True, slots=True)
class Label:
    """What one person says of an item. clause: the id that they named; empty: none."""

    said: Said
    clause: str = ""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is settled of a sample. labels and clauses are in the order of items."""

    sample: Sample
    items: tuple[Item, ...]
    labels: tuple[Settled, ...]
    clauses: tuple[str, ...]  # the clause that all name who labelled the item; empty: none
    labellers: tuple[str, ...]
    digest: str  # SHA-256 over the sample and all labels that count


@dataclass(frozen=True, slots=True)
class Sheet:
    """The labels of one person that count, by number of the item."""

    path: Path
    labeller: str
    labels: Mapping[int, Label]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Head(_Part):
    format: Literal[1] = 1
    sample: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # digest of its file
    labeller: str


class _Line(_Part):
    item: Annotated[int, Field(ge=1, strict=True)]
    label: Said
    clause: str = ""
    at: AwareDatetime


P = TypeVar("P", bound=BaseModel)


def path_of(sample: Path, labeller: str) -> Path:
    """The file of a person's labels. Raises ConfigError for a name that no file can have."""
    if not NAME.fullmatch(labeller):
        raise ConfigError(f"{labeller!r} cannot be a labeller's name: use letters, digits, - and _, at most 64 of them")
    return sample.with_name(f"{_stem(sample)}.{labeller}{SUFFIX}")


def sheets(sample: Path, policy: Policy | None = None) -> list[Sheet]:
    """The labels of each person, by name, and of the adjudication, if there is one. Raises ConfigError."""
    _, items, digest = samples.read_with_digest(sample)
    return _sheets(sample, len(items), digest, policy)


def settled(sample: Path, policy: Policy | None = None) -> Settlement:
    """What is settled of a sample. policy: to check the clauses that labels name.

    Each person who has a file of labels beside the sample must have labelled an item, or somebody have decided it.
    Raises ConfigError: file, line, what to do.
    """
    drawn, items, digest = samples.read_with_digest(sample)
    found = _sheets(sample, len(items), digest, policy)
    people = [sheet for sheet in found if sheet.labeller != ADJUDICATION]
    decided = next((sheet.labels for sheet in found if sheet.labeller == ADJUDICATION), {})
    results = [settle([sheet.labels.get(item.number) for sheet in people], decided.get(item.number)) for item in items]
    said = [[sheet.labeller, [[n, *_words(label)] for n, label in sorted(sheet.labels.items())]] for sheet in found]
    content = json.dumps([digest, said], separators=(",", ":"))
    return Settlement(
        sample=drawn,
        items=items,
        labels=tuple(result for result, _ in results),
        clauses=tuple(clause for _, clause in results),
        labellers=tuple(sheet.labeller for sheet in people),
        digest=hashlib.sha256(content.encode()).hexdigest(),
    )


def settle(labels: Sequence[Label | None], decided: Label | None = None) -> tuple[Settled, str]:
    """What is settled of one item, and its clause. labels: one for each person; None: they have not labelled it.

    decided: by the adjudication. It counts where all have labelled the item, and differ.
    """
    if not labels or None in labels:
        return Settled.UNLABELLED, ""
    given = [label for label in labels if label is not None]
    if len({label.said for label in given}) == 1:
        clauses = {label.clause for label in given}
        return Settled(given[0].said), clauses.pop() if len(clauses) == 1 else ""
    return (Settled(decided.said), decided.clause) if decided else (Settled.DISPUTED, "")


class Pen:
    """Writes the labels of one person. Make it by `opened`."""

    def __init__(self, sheet: Sheet, file: FileIO) -> None:
        self.path = sheet.path
        self.labels = dict(sheet.labels)  # that count, by number of the item, in the order in which they were given
        self._file = file

    def write(self, number: int, label: Label) -> None:
        """Labels an item. Returns once the label is on the disk. Raises ConfigError where it cannot be written."""
        line = _Line(item=number, label=label.said, clause=label.clause, at=datetime.now(UTC))
        _append(self._file, line.model_dump_json(exclude_defaults=True), self.path)
        _apply(self.labels, line)

    def undo(self) -> int | None:
        """Takes the last label back, also one of an earlier time. Returns its item; None: there is no label.

        Returns once that is on the disk. Raises ConfigError where it cannot be written.
        """
        number = next(reversed(self.labels), None)
        if number is not None:
            self.write(number, Label(Said.UNDONE))
        return number


@contextmanager
def opened(sample: Path, labeller: str, policy: Policy | None = None) -> Iterator[Pen]:
    """Yields a Pen. Raises ConfigError: a broken file, labels of another sample, a second process with this file.

    What an interrupted write left behind the last line is cut off: that label was never confirmed.
    """
    _, items, digest = samples.read_with_digest(sample)
    path = path_of(sample, labeller)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise ConfigError(f"{path}: not written: {cause_of(error)}") from None
    with FileIO(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{path}: {labeller} is labelling in another terminal: go on there, or end it") from None
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            file.truncate(len(whole))
        if not whole:
            _append(file, _Head(sample=digest, labeller=labeller).model_dump_json(), path)
            _sync_folder(path.parent)
        yield Pen(_sheet(path, labeller, len(items), digest, policy), file)


def _append(file: FileIO, line: str, path: Path) -> None:
    """Appends a line. Returns once it is on the disk; a line that fails leaves nothing behind."""
    size = os.fstat(file.fileno()).st_size
    try:
        data = f"{line}\n".encode()
        while data:
            data = data[file.write(data) :]
        os.fsync(file.fileno())
    except OSError as error:
        file.truncate(size)
        raise ConfigError(f"{path}: the label is not kept: {cause_of(error)}") from None


def _sync_folder(folder: Path) -> None:
    """So that the new file itself is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sheets(sample: Path, items: int, digest: str, policy: Policy | None) -> list[Sheet]:
    stem = _stem(sample)
    found = []
    for path in sorted(sample.parent.glob(f"*{SUFFIX}")):
        name = path.name.removeprefix(f"{stem}.").removesuffix(SUFFIX)
        if path.name == f"{stem}.{name}{SUFFIX}" and NAME.fullmatch(name):
            found.append(_sheet(path, name, items, digest, policy))
    return [sheet for sheet in found if sheet.labels]  # who has labelled nothing yet does not count


def _sheet(path: Path, labeller: str, items: int, digest: str, policy: Policy | None) -> Sheet:
    """The labels in a file. What stands behind its last line end was never confirmed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {cause_of(error)}") from None
    labels: dict[int, Label] = {}
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        at = f"{path}:{number}"
        if number == 1:
            _check_head(_parsed(_Head, line, at), labeller, digest, at)
        elif line.strip():
            parsed = _parsed(_Line, line, at)
            _check_line(parsed, items, policy, at)
            _apply(labels, parsed)
    return Sheet(path, labeller, labels)


def _apply(labels: dict[int, Label], line: _Line) -> None:
    labels.pop(line.item, None)  # the last label stands last
    if line.label is not Said.UNDONE:
        labels[line.item] = Label(line.label, line.clause)


def _check_head(head: _Head, labeller: str, digest: str, at: str) -> None:
    if head.labeller != labeller:
        raise ConfigError(f"{at}: labeller: these are the labels of {head.labeller}: give the file its old name")
    if head.sample != digest:
        raise ConfigError(
            f"{at}: sample: these are labels of another sample: take its file as it was, or move the labels away"
        )


def _check_line(line: _Line, items: int, policy: Policy | None, at: str) -> None:
    if line.item > items:
        raise ConfigError(f"{at}: item: the sample has {items} items: delete the line")
    if policy is None or not line.clause:
        return
    violates, allows = ([clause.id for clause in clauses] for clauses in (policy.violates, policy.allows))
    known = {Said.VIOLATES: violates, Said.ALLOWED: allows}.get(line.label, [])
    if line.clause not in known:
        words = f"one of {', '.join(known)}, or delete the key" if known else "nothing: delete the key"
        raise ConfigError(f"{at}: clause: no clause of {policy.id} that the label {line.label} may name: write {words}")


def _parsed(model: type[P], line: bytes, at: str) -> P:
    try:
        return model.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "the line"
        what = "not readable" if first["type"] == "json_invalid" else first["msg"].lower()
        raise ConfigError(f"{at}: {key}: {what}: mend the line, or delete it; all other labels are kept") from None


def _stem(sample: Path) -> str:
    return sample.name.removesuffix(samples.SUFFIX)


def _words(label: Label) -> tuple[str, str]:
    return label.said, label.clause
