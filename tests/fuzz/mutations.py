"""Ways to make other bytes of good ones, for the fuzzer and for Hypothesis."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

PNG = b"\x89PNG\r\n\x1a\n"


def png_mended(file: bytes) -> bytes:
    """The file with checksums that fit its chunks. What is no PNG stays as it is."""
    if not file.startswith(PNG):
        return file
    parts, at = [PNG], len(PNG)
    while len(head := file[at : at + 8]) == 8:
        (size,) = struct.unpack(">I", head[:4])
        body = file[at + 8 : at + 8 + size]
        parts += [head, body, struct.pack(">I", zlib.crc32(head[4:] + body)) if len(body) == size else b""]
        at += 12 + size
    return b"".join(parts)


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, with a few changes: bytes replaced, cut out, repeated, or taken from another seed."""
    data = draw(st.sampled_from(seeds))
    for change in draw(st.lists(st.sampled_from(_CHANGES), min_size=1, max_size=4)):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        end = start + draw(st.integers(0, 64))
        data = change(data, start, end, draw(st.binary(min_size=1, max_size=8)), draw(st.sampled_from(seeds)))
    return png_mended(data) if draw(st.booleans()) else data


def _replaced(data: bytes, start: int, end: int, new: bytes, other: bytes) -> bytes:
    return data[:start] + new + data[start + len(new) :]


def _inserted(data: bytes, start: int, end: int, new: bytes, other: bytes) -> bytes:
    return data[:start] + new + data[start:]


def _cut(data: bytes, start: int, end: int, new: bytes, other: bytes) -> bytes:
    return data[:start] + data[end:]


def _ended(data: bytes, start: int, end: int, new: bytes, other: bytes) -> bytes:
    return data[:start]


def _repeated(data: bytes, start: int, end: int, new: bytes, other: bytes) -> bytes:
    return data[:start] + data[start:end] * (1 + new[0]) + data[end:]


def _spliced(data: bytes, start: int, end: int, new: bytes, other: bytes) -> bytes:
    return data[:start] + other[start:]


_CHANGES: Sequence[Callable[[bytes, int, int, bytes, bytes], bytes]] = (
    _replaced,
    _inserted,
    _cut,
    _ended,
    _repeated,
    _spliced,
)
