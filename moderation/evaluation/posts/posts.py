"""Posts as people write them down: JSON, in which an image may name a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moderation import wire
from moderation.errors import PostError
from moderation.settings import MediaSettings
from moderation.types import Post
from moderation.wire.advice import advice

FORM = '{"post": {"text": "I saw a lake"}, "label": "violates"}'
MOST_BYTES = 64 << 20  # of a line
# How files of pictures begin: what a person's viewer opens goes by the name.
ENDINGS = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}
AVIF = b"ftypavif", b"ftypavis"


class WrongLineError(Exception):
    """What is wrong with a line, and what to write."""


def members_of(line: bytes) -> dict[str, Any]:
    """The members of the object that a line holds. Raises WrongLineError."""
    if len(line) > MOST_BYTES:
        raise WrongLineError(f"the line has more than {MOST_BYTES >> 20} MiB: put pictures into files, and name these")
    try:
        members = json.loads(line.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise WrongLineError("not UTF-8: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise WrongLineError(f"not JSON in column {error.colno} ({error.msg}): a line is as in {FORM}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; thousands of brackets
        raise WrongLineError(f"no post has such a value: a line is as in {FORM}") from None
    if not isinstance(members, dict):
        raise WrongLineError(f"must be an object, as in {FORM}")
    return members


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise WrongLineError(f"{twice}: given twice in one object; delete one")
    return members


def post_of(members: object, number: int, folder: Path, media: MediaSettings) -> tuple[Post, frozenset[Path]]:
    """The post in a line, read as one from the topic, and the folders of its files. Raises WrongLineError.

    An image may have `file`, a path from `folder`, in place of `data` and `uri`. The id is optional.
    """
    if not isinstance(members, dict):
        raise WrongLineError(f"post: must be an object, as in {FORM}")
    images = members.get("images")
    folders: set[Path] = set()
    if isinstance(images, list):
        members = members | {"images": [_image(image, place, folder, folders) for place, image in enumerate(images)]}
    value = json.dumps({"id": f"line-{number}", **members}).encode()
    try:
        post = wire.post_record(value, (("content-type", b"application/json"),), media)
    except PostError as error:
        raise WrongLineError(_of_problem(error.problem.path, *advice(error.problem))) from None
    for image in post.images:
        if image.problem is not None:
            raise WrongLineError(_of_problem(image.problem.path, *advice(image.problem)))
    if not post.has_text and not post.has_images:
        raise WrongLineError("post: it has neither text nor images: write one of them")
    return post, frozenset(folders)


def _of_problem(path: str, what: str, remedy: str) -> str:
    return f"{f'post.{path}' if path else 'post'}: {what} {remedy}"


def _image(image: Any, place: int, folder: Path, folders: set[Path]) -> Any:
    """An image of a post, with a reference in place of the name of a file."""
    if not isinstance(image, dict) or "file" not in image:
        return image
    key = f"post.images[{place}].file"
    name = image["file"]
    if image.get("uri") or image.get("data"):
        raise WrongLineError(f"{key}: an image has one of file, uri and data: delete the others")
    if not isinstance(name, str) or not name or "\0" in name or Path(name).is_absolute():
        raise WrongLineError(f"{key}: must be a path from {folder}, as in pictures/lake.jpg")
    path = (folder / name).resolve()
    if not path.is_file():
        raise WrongLineError(f"{key}: there is no such file: name one by its path from {folder}")
    folders.add(path.parent)
    return {**{member: value for member, value in image.items() if member != "file"}, "uri": path.as_uri()}


def ending_of(data: bytes) -> str:
    """The ending of a picture's file, by its first bytes."""
    if data[4:12] in AVIF:
        return ".avif"
    return next((ending for begin, ending in ENDINGS.items() if data.startswith(begin)), ".bin")
