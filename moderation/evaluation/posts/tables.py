"""Files of posts as spreadsheets and other tools write them, CSV or JSON lines, and lines of golden sets as CSV.

A row that cannot be read is a mistake with its line, and costs no other row.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from moderation.errors import ConfigError, cause_of
from moderation.evaluation.posts import golden
from moderation.evaluation.posts.posts import MOST_BYTES, WrongLineError, members_of, post_of
from moderation.policies.mistakes import Kind, Mistake
from moderation.settings import MediaSettings
from moderation.types import Post

OF_POST = ("id", "text", "language", "surface", "tenant")  # columns that are fields of a post
OF_LINE = tuple(key for key in golden.KEYS if key not in ("post", "slices"))
PICTURE = re.compile(r"(image|alt)([2-9]|[1-9]\d)?")
SLICE = "slice."  # before the name of a slice
USUAL = "text, image, language, label"
FORM = '{"text": "I saw a lake", "image": "pictures/lake.jpg", "label": "violates"}'
DELIMITERS = ",;\t"
SHOWN = 10  # mistakes
# A spreadsheet runs a text that begins like this. One apostrophe in front keeps it a text.
FORMULA = re.compile(r"'*[=+\-@\t\r]")


@dataclass(frozen=True, slots=True)
class Row:
    """A post of a file."""

    line: int  # of the file, from 1
    members: Mapping[str, Any]  # as in a line of a golden set; without `label` where there is none
    post: Post

    @property
    def label(self) -> str:
        """What the file says of the post; empty: nothing."""
        return str(self.members.get("label", ""))


@dataclass(frozen=True, slots=True)
class Table:
    """What a file holds."""

    path: Path
    rows: tuple[Row, ...]
    mistakes: tuple[Mistake, ...]  # the rows that cannot be read
    unread: tuple[str, ...]  # columns that no post has
    folders: frozenset[Path]  # of the pictures that lie in files


def read(path: Path, media: MediaSettings) -> Table:
    """The posts of a file of CSV or JSON lines. Raises ConfigError if it is neither, or has no column of a post.

    CSV: the first line names columns, with commas, semicolons or tabs between them. JSON lines: posts as on the posts
    topic, also with `image` (a file, or several) and `label`; or lines of a golden set.
    """
    text = _text(path)
    if text.lstrip().startswith("["):
        raise ConfigError(f"{path}: holds one list: write one object a line, as `jq -c '.[]' {path.name}` does")
    unread: tuple[str, ...] = ()
    if text.lstrip().startswith("{") or not text.strip():
        lines = _json_lines(text)
    else:
        unread, lines = _cells(path, text)
    rows: list[Row] = []
    mistakes: list[Mistake] = []
    folders: set[Path] = set()
    for number, found_members in lines:
        try:
            if isinstance(found_members, WrongLineError):
                raise found_members
            members = _placed(found_members, path.parent)
            post, found = post_of(members["post"], number, path.parent, media)
        except WrongLineError as mistake:
            mistakes.append(Mistake(Kind.ERROR, path, number, str(mistake)))
            continue
        rows.append(Row(number, members, post))
        folders |= found
    if not rows and not mistakes:
        raise ConfigError(f"{path}: holds no post: write one a line, as in {FORM}, or as CSV with columns {USUAL}")
    return Table(path, tuple(rows), tuple(mistakes), unread, frozenset(folders))


def whole(path: Path, media: MediaSettings) -> Table:
    """As `read`, where each row counts. Raises ConfigError with a line for each mistake: file, line, what to do."""
    table = read(path, media)
    if many := len(table.mistakes):
        more = [f"{path}: {many - SHOWN} lines more are wrong"] if many > SHOWN else []
        raise ConfigError("\n".join([*map(str, table.mistakes[:SHOWN]), *more]))
    return table


def write(lines: Sequence[Mapping[str, Any]]) -> str:
    """Lines of a golden set as CSV, which `read` reads back. Pictures must lie in files or be references."""
    cells = [flat(line) for line in lines]
    pictures = max((len(line["post"].get("images", ())) for line in lines), default=0)
    columns = [*OF_POST[:2], *(f"{name}{number}" for number in _numbers(pictures or 1) for name in ("image", "alt"))]
    columns += [*OF_POST[2:], *OF_LINE, *sorted({key for row in cells for key in row if key.startswith(SLICE)})]
    used = [column for column in columns if column in (*USUAL.split(", "),) or any(column in row for row in cells)]
    return csv_of(used, cells)


def csv_of(columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """Rows as CSV. A text that a spreadsheet would run as a formula gets an apostrophe, which `read` takes off."""
    return "".join(map(_csv_line, [columns, *([guarded(row.get(column, "")) for column in columns] for row in rows)]))


def _csv_line(cells: Sequence[str]) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\r\n").writerow(cells)  # it quotes what holds a character of this alone
    return file.getvalue()[:-2] + "\n"


def guarded(text: str) -> str:
    """The text with an apostrophe in front, if a spreadsheet would run it as a formula."""
    return f"'{text}" if FORMULA.match(text) else text


def _unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def _numbers(pictures: int) -> Iterator[str]:
    yield ""
    yield from map(str, range(2, pictures + 1))


def flat(line: Mapping[str, Any]) -> dict[str, str]:
    """A line of a golden set as cells by column."""
    post = line["post"]
    cells = {key: str(post[key]) for key in OF_POST if post.get(key)}
    for number, image in zip(_numbers(len(post.get("images", ()))), post.get("images", ()), strict=False):
        cells[f"image{number}"] = image.get("file") or image.get("uri") or ""
        if image.get("alt"):
            cells[f"alt{number}"] = image["alt"]
    for key in OF_LINE:
        if key in line:
            value = line[key]
            cells[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return cells | {f"{SLICE}{name}": value for name, value in line.get("slices", {}).items()}


def _text(path: Path) -> str:
    """The text of a file. Bytes that are not UTF-8 stay as surrogates, for the row that they are in."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {cause_of(error)}") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # "Unicode text" of Excel
        return data.decode("utf-16", "replace")
    return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _json_lines(text: str) -> Iterator[tuple[int, dict[str, Any] | WrongLineError]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, _of_object(members_of(line.encode("utf-8", "surrogateescape")))
        except WrongLineError as mistake:
            yield number, mistake


def _of_object(members: dict[str, Any]) -> dict[str, Any]:
    """The members of a line of a golden set, from such a line or from a post with more keys."""
    if "post" in members:
        return members
    line = {key: members.pop(key) for key in golden.KEYS if key in members}
    named = members.pop("image", [])
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WrongLineError('image: must be a file or a list of files, as in "pictures/lake.jpg"')
    if names:
        images = members.get("images", [])
        members["images"] = [*(images if isinstance(images, list) else ()), *map(_image, names)]
    return {"post": members, **line}


def _image(name: str) -> dict[str, str]:
    """An image that a cell names: a reference, or a file."""
    return {"uri" if "://" in name or name.startswith("data:") else "file": name}


def _placed(members: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The members with each file by its path from the folder, also where the line has its whole path."""
    post = members["post"]
    if not isinstance(post, dict) or not isinstance(post.get("images"), list):
        return members

    def placed(image: Any) -> Any:
        name = image.get("file") if isinstance(image, dict) else None
        if isinstance(name, str) and "\0" not in name and Path(name).is_absolute():
            return image | {"file": os.path.relpath(name, folder)}
        return image

    return members | {"post": post | {"images": [placed(image) for image in post["images"]]}}


def _cells(path: Path, text: str) -> tuple[tuple[str, ...], Iterator[tuple[int, dict[str, Any] | WrongLineError]]]:
    """The columns that are not read, and the lines. Raises ConfigError for a first line that names no post."""
    lines = list(io.StringIO(text, newline=""))
    header, delimiter = max(
        ((next(csv.reader(lines[:1], delimiter=sign), []), sign) for sign in DELIMITERS),
        key=lambda found: sum(map(_is_known, map(_named, found[0]))),
    )
    columns = [_named(cell) for cell in header]
    twice = {column for column in columns if column and columns.count(column) > 1}
    if twice:
        raise ConfigError(f"{path}:1: the column {min(twice)} is there twice: delete one, or name it image2")
    if "text" not in columns and not any(map(PICTURE.fullmatch, columns)):
        problem = "its first line names no column of a post"
        raise ConfigError(f"{path}:1: {problem}: name the columns {USUAL}, or write JSON lines, as in {FORM}")
    unread = tuple(cell.strip() for cell, column in zip(header, columns, strict=True) if not _is_known(column))
    return tuple(filter(None, unread)), _records(lines, delimiter, columns)


def _named(cell: str) -> str:
    """A column's name as it is compared."""
    name = cell.strip().lstrip("\ufeff")
    folded = name.casefold().replace(" ", "")
    if folded.startswith(SLICE):
        return f"{SLICE}{name.partition('.')[2].strip()}"
    return "" if not folded else folded.removesuffix("1") if folded in ("image1", "alt1") else folded


def _is_known(column: str) -> bool:
    return column in OF_POST or column in OF_LINE or column.startswith(SLICE) or bool(PICTURE.fullmatch(column))


def _records(
    lines: Sequence[str], delimiter: str, columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, Any] | WrongLineError]]:
    """The rows below the first line. Behind a row that is no CSV, reading goes on with the next line."""
    csv.field_size_limit(MOST_BYTES)
    begin = 1
    while begin < len(lines):
        reader = csv.reader(islice(lines, begin, None), delimiter=delimiter, strict=True)
        first = begin
        try:
            for record in reader:
                if any(cell.strip() for cell in record):
                    yield first + 1, _of_record(record, columns)
                first = begin + reader.line_num
        except csv.Error as error:
            yield first + 1, WrongLineError(_of_csv(str(error)))
            begin = first + 1
        else:
            return


def _of_csv(problem: str) -> str:
    if "unexpected end" in problem:
        return "a quote is opened in this row and not closed: close it, or double it inside a quoted text"
    if "expected after" in problem:
        return 'a quote stands inside a quoted text: double it, as in "a ""word"""'
    return "the row is no CSV: save the file as CSV (UTF-8) again"


def _of_record(record: Sequence[str], columns: Sequence[str]) -> dict[str, Any] | WrongLineError:
    if len(record) != len(columns):
        problem = f"the row has {len(record)} cells, and the first line names {len(columns)} columns"
        return WrongLineError(f"{problem}: put a text with a comma or a line break in quotes")
    if any("\udc80" <= sign <= "\udcff" for cell in record for sign in cell):
        return WrongLineError("not UTF-8: save the file as CSV (UTF-8)")
    cells = {column: _unguarded(cell) for column, cell in zip(columns, record, strict=True) if cell.strip()}
    post: dict[str, Any] = {key: cells[key] if key == "text" else cells[key].strip() for key in OF_POST if key in cells}
    images: list[dict[str, str]] = []
    for number in ("", *map(str, range(2, 100))):
        if name := cells.get(f"image{number}", "").strip():
            images.append(_image(name) | ({"alt": alt} if (alt := cells.get(f"alt{number}")) else {}))
        elif f"alt{number}" in cells:
            return WrongLineError(f"alt{number}: there is no image{number} in this row: delete it, or name the image")
    if images:
        post["images"] = images
    slices = {column.removeprefix(SLICE): cell.strip() for column, cell in cells.items() if column.startswith(SLICE)}
    line: dict[str, Any] = {"post": post, **{key: _value(cells[key].strip()) for key in OF_LINE if key in cells}}
    return line | ({"slices": slices} if slices else {})


def _value(cell: str) -> Any:
    """What a cell says: an object where it holds one in JSON, else its text."""
    with suppress(ValueError, RecursionError):
        return json.loads(cell) if cell.startswith("{") else cell
    return cell


def json_line(members: Mapping[str, Any]) -> str:
    """A line of a golden set."""
    return json.dumps(members, ensure_ascii=False) + "\n"
