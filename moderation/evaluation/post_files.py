"""Posts of a file of JSON lines: posts as on the posts topic, or lines of a golden set, whose labels do not count."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moderation import wire
from moderation.errors import ConfigError, PostError
from moderation.settings import MediaSettings
from moderation.types import Post
from moderation.wire.advice import advice

FORM = '{"text": "I saw a lake"}'


@dataclass(frozen=True, slots=True)
class PostFile:
    """The posts of a file, in its order. folders: those of the pictures that lie in files."""

    posts: tuple[Post, ...]
    slices: tuple[Mapping[str, str], ...]  # of each post
    folders: frozenset[Path]


def read(path: Path, media: MediaSettings) -> PostFile:
    """Reads a file. Raises ConfigError with a line for each mistake: file, line, what to do."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {(error.strerror or 'no reason given').lower()}") from None
    posts: dict[str, tuple[Post, Mapping[str, str]]] = {}
    folders: set[Path] = set()
    mistakes: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            post, slices = _post(line, number, path.parent, media, folders)
        except _WrongLineError as mistake:
            mistakes.append(f"{path}:{number}: {mistake}")
            continue
        if post.id in posts:
            mistakes.append(f"{path}:{number}: id: another line has this id, too: give each post its own, or none")
        posts[post.id] = post, slices
    if not posts and not mistakes:
        mistakes.append(f"{path}: holds no post: write one a line, as in {FORM}")
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return PostFile(
        tuple(post for post, _ in posts.values()), tuple(slices for _, slices in posts.values()), frozenset(folders)
    )


class _WrongLineError(Exception):
    """What is wrong with a line, and what to write."""


def _post(
    line: bytes, number: int, folder: Path, media: MediaSettings, folders: set[Path]
) -> tuple[Post, Mapping[str, str]]:
    try:
        members = json.loads(line.decode())
    except (ValueError, RecursionError):
        raise _WrongLineError(f"not JSON: a line is as in {FORM}") from None
    slices: Any = {}
    if isinstance(members, dict) and "post" in members:
        slices, members = members.get("slices") or {}, members["post"]
    if not isinstance(members, dict):
        raise _WrongLineError(f"must be an object, as in {FORM}")
    if not isinstance(slices, dict) or not all(isinstance(word, str) for pair in slices.items() for word in pair):
        raise _WrongLineError('slices: must be an object of texts, as in {"surface": "comment"}')
    images = members.get("images")
    if isinstance(images, list):
        members = members | {"images": [_image(image, folder, folders) for image in images]}
    value = json.dumps({"id": f"line-{number}", **members}).encode()
    try:
        post = wire.post_record(value, (("content-type", b"application/json"),), media)
    except PostError as error:
        what, remedy = advice(error.problem)
        raise _WrongLineError(f"{error.problem.path or 'post'}: {what} {remedy}") from None
    return post, slices


def _image(image: Any, folder: Path, folders: set[Path]) -> Any:
    """An image with a reference in place of the name of a file."""
    if not isinstance(image, dict) or not isinstance(image.get("file"), str):
        return image
    path = (folder / image["file"]).resolve()
    if not path.is_file():
        raise _WrongLineError(f"images: a file is missing: name it by its path from {folder}")
    folders.add(path.parent)
    return {**{member: value for member, value in image.items() if member != "file"}, "uri": path.as_uri()}
