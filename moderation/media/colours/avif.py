"""Finds what an AVIF file says of its colours: a profile, code points, or those of its AV1 stream. Bytes are untrusted.

Boxes are those of ISO/IEC 14496-12 and 23008-12, the sequence header is that of AV1, section 5.5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from moderation.media.colours.chunks import Said, bounded

MAX_BOXES = 10_000
SEQUENCE_HEADER = 1  # type of an OBU
UNSPECIFIED = 2
# Browsers show these transfers as sRGB's curve.
AS_SRGB = (1, 6, 14, 15)


def of_avif(file: bytes) -> Said:
    """A profile stands before code points, and those of boxes before those of the stream."""
    try:
        return _Boxes(file).said()
    except (struct.error, IndexError):
        return Said()


def _code_points(primaries: int, transfer: int) -> tuple[int, int]:
    """As browsers read them: what is not known is sRGB's."""
    if primaries == 0:  # reserved
        return 1, 13
    transfer = 13 if transfer in AS_SRGB or transfer == UNSPECIFIED or transfer > 18 else transfer
    return (primaries if primaries in (4, 5, 6, 7, 8, 9, 10, 11, 12, 22) else 1), transfer


class _Boxes:
    def __init__(self, file: bytes) -> None:
        self._file = file
        self._left = MAX_BOXES

    def _in(self, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Name, begin of the body and end of each box."""
        place = begin
        while place + 8 <= end and self._left > 0:
            self._left -= 1
            length, name = struct.unpack_from(">I4s", self._file, place)
            head = 8
            if length == 1:
                (length,) = struct.unpack_from(">Q", self._file, place + 8)
                head = 16
            stop = min(end, place + length) if length else end
            if stop < place + head:
                return
            yield name, place + head, stop
            place = stop

    def _first(self, begin: int, end: int, *path: bytes) -> tuple[int, int] | None:
        """The body of the first box of this path."""
        for name, body, stop in self._in(begin, end):
            if name == path[0]:
                return (body, stop) if len(path) == 1 else self._first(body, stop, *path[1:])
        return None

    def said(self) -> Said:
        meta = self._first(0, len(self._file), b"meta")
        if meta is None:
            return Said()
        body = meta[0] + 4, meta[1]
        item = self._primary(body)
        icc = points = peak = None
        for name, begin, end in self._properties(body, item):
            if name == b"colr":
                kind = self._file[begin : begin + 4]
                if kind in (b"prof", b"rICC") and icc is None:
                    icc = bounded(self._file[begin + 4 : end])
                elif kind == b"nclx" and points is None:
                    points = struct.unpack_from(">HH", self._file, begin + 4)
            elif name == b"clli" and peak is None:
                peak = float(struct.unpack_from(">H", self._file, begin)[0]) or None
        if points is None and icc is None:
            points = self._of_stream(body, item)
        return Said(icc=icc, code_points=_code_points(*points) if points else None, peak_nits=peak)

    def _primary(self, meta: tuple[int, int]) -> int:
        box = self._first(*meta, b"pitm")
        if box is None:
            return 0
        form = ">I" if self._file[box[0]] else ">H"
        (item,) = struct.unpack_from(form, self._file, box[0] + 4)
        return int(item)

    def _properties(self, meta: tuple[int, int], item: int) -> Iterator[tuple[bytes, int, int]]:
        """The properties of the item, in its order."""
        held, linked = self._first(*meta, b"iprp", b"ipco"), self._first(*meta, b"iprp", b"ipma")
        if held is None or linked is None:
            return
        boxes = list(self._in(*held))
        place, _ = linked
        version, wide = self._file[place], self._file[place + 3] & 1
        (count,) = struct.unpack_from(">I", self._file, place + 4)
        place += 8
        for _ in range(min(count, MAX_BOXES)):
            (number,) = struct.unpack_from(">I" if version else ">H", self._file, place)
            place += 4 if version else 2
            links = self._file[place]
            place += 1
            indices = struct.unpack_from(f">{links}{'H' if wide else 'B'}", self._file, place)
            place += links * (2 if wide else 1)
            if number == item:
                for index in (value & (0x7FFF if wide else 0x7F) for value in indices):
                    if 1 <= index <= len(boxes):
                        yield boxes[index - 1]
                return

    def _of_stream(self, meta: tuple[int, int], item: int) -> tuple[int, int] | None:
        place = self._place_of(meta, item)
        return None if place is None else _of_obus(self._file[place : place + 4096])

    def _place_of(self, meta: tuple[int, int], item: int) -> int | None:
        """Where in the file the bytes of the item begin. None where they lie in a box of their own."""
        box = self._first(*meta, b"iloc")
        if box is None:
            return None
        place = box[0]
        version = self._file[place]
        sizes = self._file[place + 4 : place + 6]
        of_offset, of_length, of_base, of_index = sizes[0] >> 4, sizes[0] & 15, sizes[1] >> 4, sizes[1] & 15
        wide = version == 2
        (count,) = struct.unpack_from(">I" if wide else ">H", self._file, place + 6)
        place += 10 if wide else 8
        for _ in range(min(count, MAX_BOXES)):
            (number,) = struct.unpack_from(">I" if wide else ">H", self._file, place)
            place += 4 if wide else 2
            method = 0
            if version:
                method = self._file[place + 1] & 15
                place += 2
            base = int.from_bytes(self._file[place + 2 : place + 2 + of_base])
            place += 2 + of_base
            (extents,) = struct.unpack_from(">H", self._file, place)
            place += 2 + (of_index if version else 0)
            if number == item:
                return base + int.from_bytes(self._file[place : place + of_offset]) if method == 0 else None
            place += extents * (of_offset + of_length + (of_index if version else 0)) - (of_index if version else 0)
        return None


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._number = int.from_bytes(data)
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        """Raises IndexError behind the end."""
        self._left -= count
        if self._left < 0:
            raise IndexError
        return (self._number >> self._left) & ((1 << count) - 1)

    def skip_number(self) -> None:
        """One of variable length (uvlc)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        self.read(min(zeros, 32))


def _of_obus(data: bytes) -> tuple[int, int] | None:
    """Primaries and transfer of the first sequence header."""
    place = 0
    while place + 2 <= len(data):
        head = data[place]
        place += 2 if head & 4 else 1
        size, shift = len(data) - place, 0
        if head & 2:
            size = 0
            while shift < 56:
                byte = data[place]
                place += 1
                size |= (byte & 127) << shift
                shift += 7
                if not byte & 128:
                    break
        if head >> 3 & 15 == SEQUENCE_HEADER:
            return _of_sequence(_Bits(data[place : place + size]))
        place += size
    return None


def _of_sequence(bits: _Bits) -> tuple[int, int] | None:
    profile = bits.read(3)
    bits.read(1)  # still_picture
    reduced = bits.read(1)
    if reduced:
        bits.read(5)
    else:
        _skip_operating_points(bits)
    width, height = bits.read(4), bits.read(4)
    bits.read(width + 1)
    bits.read(height + 1)
    if not reduced and bits.read(1):  # frame_id_numbers_present
        bits.read(7)
    bits.read(3)
    if not reduced:
        _skip_tools(bits)
    bits.read(3)
    high = bits.read(1)
    if profile == 2 and high:
        bits.read(1)
    if profile != 1:
        bits.read(1)  # mono_chrome
    return (bits.read(8), bits.read(8)) if bits.read(1) else None


def _skip_operating_points(bits: _Bits) -> None:
    model = 0
    delay = 0
    if bits.read(1):  # timing_info_present
        bits.read(64)
        if bits.read(1):  # equal_picture_interval
            bits.skip_number()
        model = bits.read(1)
        if model:
            delay = bits.read(5) + 1
            bits.read(32 + 5 + 5)
    initial = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:  # seq_level_idx
            bits.read(1)
        if model and bits.read(1):
            bits.read(2 * delay + 1)
        if initial and bits.read(1):
            bits.read(4)


def _skip_tools(bits: _Bits) -> None:
    bits.read(4)
    ordered = bits.read(1)
    if ordered:
        bits.read(2)
    screen = 2 if bits.read(1) else bits.read(1)  # seq_force_screen_content_tools
    if screen and not bits.read(1):
        bits.read(1)
    if ordered:
        bits.read(3)
