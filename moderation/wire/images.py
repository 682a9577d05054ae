"""Images of posts: where their bytes are. A mistake in one image does not hide the rest of its post.

Bytes and references may be given as a `data:` URL (RFC 2397), since every reader takes one in the same way.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

from moderation.settings import MediaSettings
from moderation.types import Detail, Image, Problem, Reason
from moderation.wire.ids import string_fault

MAX_URI_BYTES = 4096

_SCHEME = b"data:"
_BASE64 = re.compile(rb";\s*base64\s*$", re.IGNORECASE)
_PIECE = 64 << 10  # bytes whose escapes are read at a time: a list of all escapes takes many times their bytes


def image(data: bytes | str, uri: str, alt: str, path: str, media: MediaSettings) -> Image:
    """One image. `data`: the bytes of its file, or base64 of them. `path`: of the image in its post."""
    source = _source(data, uri, path, media)
    if isinstance(source, Problem):
        return _unread(data, uri, alt, source)
    return Image(data=source, alt=alt) if isinstance(source, bytes) else Image(uri=source, alt=alt)


def image_beyond(most: int, data: bytes | str, uri: str, alt: str) -> Image:
    """One image beyond the `most` that are read. Its alternative text is judged. All of them have the same problem."""
    return _unread(data, uri, alt, Problem(Reason.TOO_MANY_IMAGES, f"images[{most}]"))


def _unread(data: bytes | str, uri: str, alt: str, problem: Problem) -> Image:
    """With what was sent, which the digest of the content covers: the bytes of the file, if it can be decoded."""
    file = _file(data)
    if isinstance(file, Detail):
        file = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return Image(file or None, uri or None, alt, problem)


def _source(data: bytes | str, uri: str, path: str, media: MediaSettings) -> bytes | str | Problem:
    if bool(data) == bool(uri):
        return Problem(Reason.INVALID_POST, path, Detail.TWO_SOURCES if uri else Detail.MISSING)
    path += ".uri" if uri else ".data"
    if uri and not _is_data_url(uri):
        fault = string_fault(uri, MAX_URI_BYTES)
        return Problem(Reason.INVALID_POST, path, fault) if fault else uri
    file = _file(uri or data)
    if isinstance(file, Detail):
        return Problem(Reason.NOT_DECODABLE, path, file)
    if not file:
        return Problem(Reason.INVALID_POST, path, Detail.MISSING)
    return Problem(Reason.IMAGE_TOO_LARGE, path) if len(file) > media.max_bytes else file


def _file(data: bytes | str) -> bytes | Detail:
    """The bytes of a file, from base64 if `data` is a string, and from a `data:` URL in any case."""
    if isinstance(data, str):
        file = data.encode("utf-8", "replace") if _is_data_url(data) else _from_base64(data.encode("utf-8", "replace"))
    else:
        file = data
    return _from_data_url(file) if isinstance(file, bytes) and _is_data_url(file) else file  # no picture begins so


def _is_data_url(value: str | bytes) -> bool:
    scheme = value[: len(_SCHEME)]
    return (scheme if isinstance(scheme, bytes) else scheme.encode("utf-8", "replace")).lower() == _SCHEME


def _from_data_url(url: bytes) -> bytes | Detail:
    head, comma, body = url[len(_SCHEME) :].partition(b"#")[0].partition(b",")  # a fragment is no part of the bytes
    if not comma:
        return Detail.DATA_URL
    escaped = body.translate(None, b"\t\r\n")  # as URLs are read
    content = _unescaped(escaped) if b"%" in escaped else escaped
    return _from_base64(content) if _BASE64.search(head) else content


def _unescaped(text: bytes) -> bytes:
    content = bytearray()
    at = 0
    while at < len(text):
        end = at + _PIECE
        split = text.rfind(b"%", end - 2, end) if end < len(text) else -1  # an escape is read as a whole
        end = split if split >= 0 else end
        content += unquote_to_bytes(text[at:end])
        at = end
    return bytes(content)


def _from_base64(text: bytes) -> bytes | Detail:
    """Standard or URL-safe, with or without padding and line breaks. Other characters are not skipped.

    If they were, the bytes judged would not be the bytes that were sent.
    """
    try:
        encoded = text.translate(None, b"\r\n")
        if b"-" in encoded or b"_" in encoded:
            if b"+" in encoded or b"/" in encoded:
                return Detail.BASE64
            encoded = encoded.translate(bytes.maketrans(b"-_", b"+/"))
        bare = encoded.rstrip(b"=")
        padded = bare + b"=" * (-len(bare) % 4)
        if encoded not in (bare, padded):
            return Detail.BASE64
        return binascii.a2b_base64(padded, strict_mode=True)
    except ValueError:
        return Detail.BASE64
