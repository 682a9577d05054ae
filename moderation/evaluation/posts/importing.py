"""Labelled rows of a table become lines of a golden set, and back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moderation.errors import ConfigError, cause_of
from moderation.evaluation.files import replaced
from moderation.evaluation.posts import golden, tables
from moderation.evaluation.posts.golden import ALLOWED, VIOLATES, GoldenSet, Labelled
from moderation.evaluation.posts.posts import WrongLineError, ending_of, members_of
from moderation.evaluation.posts.tables import Table
from moderation.policies import Policy
from moderation.policies.mistakes import Kind, Mistake
from moderation.settings import MediaSettings
from moderation.types import Post

# What tables write for labels.
MEANINGS = {"yes": VIOLATES, "true": VIOLATES, "1": VIOLATES, "no": ALLOWED, "false": ALLOWED, "0": ALLOWED}


@dataclass(frozen=True, slots=True)
class Imported:
    """What a table adds to a golden set."""

    lines: tuple[str, ...]  # of the set, each with its line break
    known: int  # rows whose post the set has with the same label
    mistakes: tuple[Mistake, ...]  # in the order of rows


def imported(table: Table, policy: Policy, target: Path, media: MediaSettings, meanings: Mapping[str, str]) -> Imported:
    """What the rows add to the set at `target`, which may exist. meanings: labels of the table in words of golden sets.

    Raises ConfigError if no row has a label, or if the set that exists has a mistake.
    """
    if not any(row.label for row in table.rows) and table.rows:
        clauses = ", ".join([VIOLATES, ALLOWED, *(clause.id for clause in (*policy.violates, *policy.allows))])
        raise ConfigError(f"{table.path}: no post has a label: add a column `label` with one of {clauses}")
    there = golden.read(target, policy, media) if target.exists() else None
    known = {_content(each.post): (f"line {each.line} of {target}", each) for each in there.posts} if there else {}
    ids = {each.post.id: each.line for each in there.posts if each.post.id != f"line-{each.line}"} if there else {}
    named = [(row.line, _meant(row.members, meanings)) for row in table.rows]
    lines: list[str] = []
    mistakes: list[Mistake] = list(table.mistakes)
    twice = 0
    for (number, members), (_, found) in zip(named, golden.rows(named, table.path, policy, media), strict=True):
        try:
            if isinstance(found, WrongLineError):
                raise found
            place, same = known.setdefault(_content(found.post), (f"line {number}", found))
            if same is not found:
                _agree(found, same, place)
                twice += 1
            else:
                if members["post"].get("id"):
                    _own_id(found.post.id, ids, target)
                lines.append(tables.json_line(moved(members, table.path.parent, target.parent)))
        except WrongLineError as mistake:
            mistakes.append(Mistake(Kind.ERROR, table.path, number, str(mistake)))
    return Imported(tuple(lines), twice, tuple(sorted(mistakes, key=lambda mistake: mistake.line)))


def added(target: Path, lines: tuple[str, ...]) -> None:
    """Adds lines to the end of a golden set: all of them, or none if the process ends. Raises ConfigError."""
    try:
        before = target.read_bytes() if target.exists() else b""
    except OSError as error:
        raise ConfigError(f"{target}: not readable: {cause_of(error)}") from None
    if before and not before.endswith(b"\n"):
        before += b"\n"
    replaced(target, before + "".join(lines).encode())


def exported(golden_set: GoldenSet, out: Path | None) -> str:
    """The set as CSV. Files are named by their paths from the folder of `out`, None: from that of the set.

    Pictures that lines hold as data are written to a folder beside `out`. Raises ConfigError if there is no such place.
    """
    return tables.write(list(_exported(golden_set, out)))


def _exported(golden_set: GoldenSet, out: Path | None) -> Iterator[Mapping[str, Any]]:
    lines = golden_set.path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    folder = out.parent if out else golden_set.path.parent
    for labelled in golden_set.posts:
        members = members_of(lines[labelled.line - 1])
        post = members["post"]
        if images := post.get("images"):
            files = [
                _written(image, labelled, place, out) if image.get("data") else image
                for place, image in enumerate(images)
            ]
            members["post"] = post | {"images": files}
        yield moved(members, golden_set.path.parent, folder, but=f"{out.stem}-pictures" if out else "")


def _written(image: Mapping[str, Any], labelled: Labelled, place: int, out: Path | None) -> dict[str, Any]:
    """An image that names a file in place of its data."""
    if out is None:
        problem = f"line {labelled.line} holds a picture, which no CSV can"
        raise ConfigError(f"{problem}: name a file by --out, and pictures are written to a folder beside it")
    data = labelled.post.images[place].data or b""
    file = out.parent / f"{out.stem}-pictures" / f"line-{labelled.line}-{place + 1}{ending_of(data)}"
    try:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{file}: not written: {cause_of(error)}") from None
    kept = {key: value for key, value in image.items() if key != "data"}
    return kept | {"file": f"{out.stem}-pictures/{file.name}"}


def _content(post: Post) -> tuple[object, ...]:
    """What makes two posts the same: all but the id."""
    images = tuple((image.data, image.uri, image.alt) for image in post.images)
    return post.text, images, post.language, post.surface, post.tenant


def _own_id(id: str, ids: Mapping[str, int], target: Path) -> None:
    """Raises WrongLineError if another post of the set has the id."""
    if id in ids:
        problem = f"post.id: line {ids[id]} of {target} has this id with another post"
        raise WrongLineError(f"{problem}: give each post its own, or none")


def _agree(found: Labelled, same: Labelled, place: str) -> None:
    """Raises WrongLineError if the same post has another label elsewhere."""
    if (found.violates, found.clause) != (same.violates, same.clause):
        label = same.clause or (VIOLATES if same.violates else ALLOWED)
        raise WrongLineError(f"label: {place} has the same post with the label {label}: keep one of the two")


def _meant(members: Mapping[str, Any], meanings: Mapping[str, str]) -> Mapping[str, Any]:
    """The members with the label in words of golden sets."""
    if not isinstance(label := members.get("label"), str | int):
        return members
    word = str(label)
    return {**members, "label": meanings.get(word, MEANINGS.get(word.casefold(), word))}


def moved(members: Mapping[str, Any], old: Path, new: Path, but: str = "") -> Mapping[str, Any]:
    """The members with files named from the folder `new`, not from `old`. but: a folder of `new` already."""
    images = members["post"].get("images")
    if not images:
        return members

    def renamed(image: dict[str, Any]) -> dict[str, Any]:
        if "file" not in image or (but and image["file"].startswith(f"{but}/")):
            return image
        return image | {"file": os.path.relpath((old / image["file"]).resolve(), new.resolve())}

    return {**members, "post": members["post"] | {"images": [renamed(image) for image in images]}}
