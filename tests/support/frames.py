"""HTTP/2 (RFC 9113) as bytes, so that a client can break its rules. Header fields are literals, not indexed."""

from __future__ import annotations

import struct
from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS = 4, 3
WINDOW = 65_535  # bytes, of a stream and of a connection, until the peer says more


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """A header block."""
    return b"".join(b"\0" + _string(name.encode()) + _string(value.encode()) for name, value in fields)


def request(path: str, *metadata: tuple[str, str]) -> bytes:
    """The header block of a gRPC call."""
    return block(
        (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *metadata,
        )
    )


def message(body: bytes, *, length: int | None = None, compressed: bool = False) -> bytes:
    """A gRPC message; `length`: what its header says in place of the truth."""
    return struct.pack(">BI", compressed, len(body) if length is None else length) + body


def _string(value: bytes) -> bytes:
    return _integer(len(value)) + value


def _integer(value: int) -> bytes:
    """With a prefix of 7 bits."""
    if value < 127:
        return bytes((value,))
    parts, rest = [127], value - 127
    while rest >= 128:
        parts.append(rest % 128 + 128)
        rest //= 128
    return bytes((*parts, rest))
