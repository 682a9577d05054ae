"""The records of a compressed batch, a piece at a time.

A batch of 36 kB can hold a gigabyte of zeros: only reading shows the size. aiokafka decompresses a batch as a whole.
These streams return as many bytes as a caller asks for. They hold little more: a window of the codec (zstd: up to
128 MiB, as brokers allow) or one block (lz4: up to 4 MiB).
"""

from __future__ import annotations

import gzip
import io
import struct
import sys
import zlib
from collections.abc import Iterator
from typing import Protocol

import cramjam

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)  # the codecs, as a batch's attributes number them
FAILURES = (cramjam.DecompressionError, zstd.ZstdError, zlib.error, struct.error, OSError, EOFError, ValueError)

MAX_BLOCKS = 256  # of snappy in a small batch; Java writes 32 KiB each
_PIECE = 1 << 20  # bytes of a snappy block that are decompressed at once
_SNAPPY_WINDOW = 1 << 20  # that a copy may reach back; every known compressor stays within 64 KiB
_XERIAL = b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"  # before blocks with their lengths, as Java writes them
_LZ4_MAGIC, _LZ4_SKIPPED = 0x184D2204, range(0x184D2A50, 0x184D2A60)
_LZ4_BLOCKS = {4: 64 << 10, 5: 256 << 10, 6: 1 << 20, 7: 4 << 20}


class Stream(Protocol):
    """Decompressed bytes, in order."""

    def read(self, size: int, /) -> bytes:
        """Returns at most `size` bytes; empty at the end. Raises one of FAILURES."""


def stream(codec: int, data: bytes) -> Stream:
    """Returns a stream of what `data` holds. Raises ValueError if there is no such codec."""
    if codec == NONE:
        return io.BytesIO(data)
    if codec == GZIP:
        return gzip.GzipFile(fileobj=io.BytesIO(data))
    if codec == ZSTD:
        return zstd.ZstdFile(io.BytesIO(data))
    if codec == SNAPPY:
        return _Pieces(_snappy(memoryview(data)))
    if codec == LZ4:
        return _Pieces(_lz4(memoryview(data)))
    raise ValueError("no such codec")


def whole(codec: int, data: bytes, buffer: bytearray) -> memoryview | None:
    """Decompresses all of `data` into `buffer`. None: it does not fit, or is broken. A stream shows which."""
    try:
        if codec == SNAPPY:
            at = 0
            for number, piece in enumerate(_snappy(memoryview(data), apart=False)):
                if number >= MAX_BLOCKS or at + len(piece) > len(buffer):
                    return None
                buffer[at : at + len(piece)] = piece
                at += len(piece)
            return memoryview(buffer)[:at]
        into = {GZIP: cramjam.gzip, LZ4: cramjam.lz4, ZSTD: cramjam.zstd}[codec].decompress_into
        return memoryview(buffer)[: into(data, buffer)]
    except (*FAILURES, LookupError):
        return None


class _Pieces:
    """A stream of pieces."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._piece = memoryview(piece)
        taken, self._piece = self._piece[:size], self._piece[size:]
        return bytes(taken)


def _snappy(data: memoryview, *, apart: bool = True) -> Iterator[bytes]:
    """apart: whether a large block is decompressed piece by piece. If not, a large block raises ValueError."""
    if data[:8] != _XERIAL[:8]:
        yield from _snappy_block(data, apart=apart)
        return
    at = len(_XERIAL)
    while at < len(data):
        (size,) = struct.unpack_from("!i", data, at)
        if not 0 <= size <= len(data) - at - 4:
            raise ValueError("a block ends behind its batch")
        yield from _snappy_block(data[at + 4 : at + 4 + size], apart=apart)
        at += 4 + size


def _snappy_block(block: memoryview, *, apart: bool) -> Iterator[bytes]:
    """Decompresses a large block piece by piece: the library returns all of a block or nothing."""
    if cramjam.snappy.decompress_raw_len(block) <= _PIECE:
        yield bytes(cramjam.snappy.decompress_raw(block))
        return
    if not apart:
        raise ValueError("a large block")
    at = next(index for index, byte in enumerate(block) if byte < 0x80) + 1  # the announced length ends there
    output = bytearray()  # what copies may reach, and what is to be yielded
    yielded = 0  # bytes of it
    while at < len(block):
        at = _snappy_element(block, at, output)
        if len(output) - yielded >= _PIECE:
            yield bytes(memoryview(output)[yielded:])
            del output[: max(0, len(output) - _SNAPPY_WINDOW)]
            yielded = len(output)
    yield bytes(memoryview(output)[yielded:])


def _snappy_element(block: memoryview, at: int, output: bytearray) -> int:
    """Appends what the element at `at` stands for. Returns where the next element begins."""
    tag, at = block[at], at + 1
    kind, high = tag & 3, tag >> 2
    if kind == 0:
        wide = max(0, high - 59)  # bytes of a length that the tag does not hold
        length = 1 + (int.from_bytes(block[at : at + wide], "little") if wide else high)
        at += wide
        if length > len(block) - at:
            raise ValueError("a literal ends behind its block")
        output += block[at : at + length]
        return at + length
    if kind == 1:
        length, back, at = 4 + (high & 7), (tag >> 5 << 8) | block[at], at + 1
    else:
        wide = 2 if kind == 2 else 4
        length, back, at = 1 + high, int.from_bytes(block[at : at + wide], "little"), at + wide
    if not 0 < back <= len(output):
        raise ValueError("a copy reaches behind what is kept")
    start = len(output) - back
    pattern = bytes(output[start : start + length])
    output += (pattern * (length // len(pattern) + 1))[:length]  # a copy may overlap what it writes
    return at


def _lz4(data: memoryview) -> Iterator[bytes]:
    """Frames of independent blocks: brokers refuse others. The batch's CRC stands for the frames' checksums."""
    at = 0
    while at < len(data):
        (magic,) = struct.unpack_from("<I", data, at)
        if magic in _LZ4_SKIPPED:
            at += 8 + int(struct.unpack_from("<I", data, at + 4)[0])
            continue
        flags, size = data[at + 4], _LZ4_BLOCKS.get(data[at + 5] >> 4 & 7, 0)
        if magic != _LZ4_MAGIC or not size or not flags & 0x20:
            raise ValueError("no frame of independent blocks")
        at += 7 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0)
        while (length := int(struct.unpack_from("<I", data, at)[0])) != 0:
            plain, length = length >> 31, length & 0x7FFFFFFF
            block = data[at + 4 : at + 4 + length]
            if len(block) < length:
                raise ValueError("a block ends behind its batch")
            yield bytes(block) if plain else _lz4_block(block, size)
            at += 4 + length + (4 if flags & 0x10 else 0)
        at += 4 + (4 if flags & 0x04 else 0)


def _lz4_block(block: memoryview, max_bytes: int) -> bytes:
    buffer = bytearray(max_bytes)  # the call that returns a buffer does not say how much of it is filled
    return bytes(memoryview(buffer)[: cramjam.lz4.decompress_block_into(block, buffer, output_len=max_bytes)])
