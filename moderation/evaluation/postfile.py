"""Files of posts without labels: JSON lines, each a post as on the posts topic. An image may name a `file` instead."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moderation import wire
from moderation.errors import ConfigError, PostError
from moderation.settings import MediaSettings
from moderation.types import Post
from moderation.wire.advice import advice

HEADERS = (("content-type", b"application/json"),)
SHOWN = 10  # mistakes


@dataclass(frozen=True, slots=True)
class Line:
    """A post of a file, and the line on which it stands, from 1."""

    number: int
    post: Post


def read(path: Path, media: MediaSettings) -> tuple[list[Line], frozenset[Path]]:
    """The posts of a file, and the folders of its pictures. A post without an id gets that of its line.

    Raises ConfigError with a line for each mistake: file, line, what to do.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {(error.strerror or 'no reason given').lower()}") from None
    found: list[Line] = []
    mistakes: list[str] = []
    folders: set[Path] = set()
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(Line(number, _post(line, number, path, media, folders)))
            except PostError as error:
                what, remedy = advice(error.problem)
                place = f"{error.problem.path}: " if error.problem.path else ""
                mistakes.append(f"{path}:{number}: {place}{what} {remedy}")
    if not found and not mistakes:
        raise ConfigError(f'{path}: holds no post: write one a line, as in {{"id": "1", "text": "I saw a lake"}}')
    if mistakes:
        more = [f"{path}: {len(mistakes) - SHOWN} lines more are no posts"] if len(mistakes) > SHOWN else []
        raise ConfigError("\n".join([*mistakes[:SHOWN], *more]))
    return found, frozenset(folders)


def _post(line: bytes, number: int, path: Path, media: MediaSettings, folders: set[Path]) -> Post:
    try:
        members = json.loads(line)
    except (ValueError, RecursionError):
        members = None
    if isinstance(members, dict):
        if isinstance(members.get("images"), list):
            images = [
                _image(image, f"{path}:{number}", place, path, folders) for place, image in enumerate(members["images"])
            ]
            members["images"] = images
        line = json.dumps({"id": f"line-{number}", **members}).encode()
    return wire.post_record(line, HEADERS, media)


def _image(image: Any, at: str, place: int, path: Path, folders: set[Path]) -> Any:
    """An image, with a reference in place of the name of a file. Raises ConfigError where there is no such file."""
    if not isinstance(image, dict) or "file" not in image:
        return image
    name = image["file"]
    file = (path.parent / name).resolve() if isinstance(name, str) and name and "\0" not in name else None
    if file is None or not file.is_file():
        raise ConfigError(f"{at}: images[{place}].file: there is no such file: give its path from {path.parent}")
    folders.add(file.parent)
    return {**{key: value for key, value in image.items() if key != "file"}, "uri": file.as_uri()}
