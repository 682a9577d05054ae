"""Files that a store keeps compressed, as their Content-Encoding says: viewers see what is inside."""

from __future__ import annotations

import zlib

from moderation.errors import PostError
from moderation.types import Reason

INFLATED = (["gzip"], ["x-gzip"], ["deflate"])
VIEWERS_KNOW = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd"})  # uploaders write others, such as aws-chunked


def inflated(data: bytes | bytearray, encoding: str, most: int) -> bytes:
    """Returns the bytes without their Content-Encoding; as they are, if no viewer knows it.

    Raises PostError: IMAGE_TOO_LARGE above `most` bytes, of which no more are inflated; IMAGE_CORRUPT; and
    IMAGE_UNSUPPORTED for encodings that viewers know and we do not.
    """
    known = [name for name in (part.strip().lower() for part in encoding.split(",")) if name in VIEWERS_KNOW]
    if not known:
        return bytes(data)
    if known not in INFLATED:
        raise PostError(Reason.IMAGE_UNSUPPORTED, "the file's Content-Encoding may be gzip or deflate")
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # the header says which of the two it is
    try:
        file = inflater.decompress(data, most + 1)
    except zlib.error:
        raise PostError(Reason.IMAGE_CORRUPT, "the file is not compressed as its Content-Encoding says") from None
    if len(file) > most:
        raise PostError(Reason.IMAGE_TOO_LARGE, f"the file is larger than {most} bytes")
    return file
