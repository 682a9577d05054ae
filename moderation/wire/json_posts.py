"""Posts in JSON. What every reader takes in the same way is taken that way.

That is: a byte-order mark, null for any field, and half a character, which readers show as U+FFFD.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from moderation.errors import PostError
from moderation.settings import MediaSettings
from moderation.types import Detail, Image, Post, Reason
from moderation.wire import prescan
from moderation.wire.images import image, image_beyond
from moderation.wire.refusals import known_of, refusal

MAX_ELEMENTS = 4_000  # members, items, arrays and objects; a post has some thirty, and each of many images has a few
BOM = b"\xef\xbb\xbf"
_BEGINNING = 1_000  # bytes in which an object begins

_POST: Mapping[str, type] = {
    "id": str,
    "text": str,
    "images": list,
    "tenant": str,
    "language": str,
    "surface": str,
}
_IMAGE: Mapping[str, type] = {"data": str, "uri": str, "alt": str}
_SURROGATE = re.compile("[\ud800-\udfff]")


class Doubled(dict[str, Any]):
    """An object with a member that is given twice, without this member.

    Readers differ in which of the two they take: the value judged here might not be the one that users see.
    """


def read(value: bytes, media: MediaSettings) -> Post:
    """The post in a value, without a check of its id and labels.

    Images beyond `max_images` have a problem. Raises PostError.
    """
    members = _members(value)
    _check(members, _POST, "", members)
    images: Sequence[Any] = members.get("images") or ()
    for index, item in enumerate(images):
        if item is not None:
            _check(item, _IMAGE, f"images[{index}]", members)
    return Post(
        id=members.get("id") or "",
        text=_as_seen(members.get("text")),
        images=tuple(_image(item or {}, index, media) for index, item in enumerate(images)),
        tenant=members.get("tenant") or "",
        language=members.get("language") or "",
        surface=members.get("surface") or "",
    )


def is_object(value: bytes) -> bool:
    """Whether the value begins like a JSON object."""
    return value[:_BEGINNING].removeprefix(BOM).lstrip().startswith(b"{")


def _image(members: Mapping[str, str | None], index: int, media: MediaSettings) -> Image:
    sent = members.get("data") or "", members.get("uri") or "", _as_seen(members.get("alt"))
    if index < media.max_images:
        return image(*sent, f"images[{index}]", media)
    return image_beyond(media.max_images, *sent)


def _as_seen(text: str | None) -> str:
    return _SURROGATE.sub("\ufffd", text) if text else ""


def _members(value: bytes) -> dict[str, Any]:
    try:
        text = value.removeprefix(BOM).decode()
    except UnicodeDecodeError:
        raise _not_utf8(value) from None
    try:
        members = _parsed(text, value)
    except json.JSONDecodeError:
        detail = Detail.NOT_JSON if text.strip() else Detail.EMPTY
    except prescan.TooManyError:
        detail = Detail.TOO_MANY
    except prescan.LongNumberError:
        detail = Detail.LONG_NUMBER
    except RecursionError:
        detail = Detail.TOO_DEEP
    else:
        if isinstance(members, dict):
            return members
        detail = Detail.NOT_AN_OBJECT
    # No cause: the library's messages quote the value.
    raise _refused(detail)


def _parsed(text: str, value: bytes) -> Any:
    prescan.check_json(value, MAX_ELEMENTS)
    return json.loads(
        text,
        object_pairs_hook=_object,
        parse_int=prescan.number,
        parse_float=prescan.number,
        parse_constant=_constant,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    counts = Counter(name for name, _ in pairs)
    return Doubled((name, value) for name, value in pairs if counts[name] == 1)


def _constant(name: str) -> float:
    raise json.JSONDecodeError(name, "", 0)  # NaN and infinities are Python's, not JSON's


def _check(members: object, fields: Mapping[str, type], path: str, post: Mapping[str, Any]) -> None:
    """Raises PostError if an object has a field that is unknown, given twice or of another type."""
    if not isinstance(members, dict):
        raise _refused(Detail.NOT_AN_OBJECT, path, post)
    if isinstance(members, Doubled):
        raise _refused(Detail.GIVEN_TWICE, path, post)
    for name, value in members.items():
        kind = fields.get(name)
        if kind is None:
            raise _refused(Detail.UNKNOWN_FIELD, path, post)
        if value is not None and not isinstance(value, kind):
            at = f"{path}.{name}" if path else name
            raise _refused(Detail.NOT_A_STRING if kind is str else Detail.NOT_AN_ARRAY, at, post)


def _refused(detail: Detail, path: str = "", post: Mapping[str, Any] | None = None) -> PostError:
    return refusal(Reason.NOT_DECODABLE, None if post is None else known_of(post), detail, path)


def _not_utf8(value: bytes) -> PostError:
    """The refusal of a value that is not UTF-8. What is ASCII is readable all the same."""
    try:
        members = _parsed(value.decode("utf-8", "surrogateescape"), value) if is_object(value) else None
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict):
        return _refused(Detail.NOT_UTF8)
    at = next((name for name in _POST if _SURROGATE.search(str(members.get(name)))), "")
    return _refused(Detail.NOT_UTF8, at, members)
