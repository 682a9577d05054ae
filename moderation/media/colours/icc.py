"""Reads ICC profiles as Chromium does: what it takes from them, and which it ignores. Profiles are untrusted.

A profile with curves and primaries becomes a Space. One with a table becomes a smaller profile, which holds the table
alone, for ImageCms. `written` makes one of a space.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from moderation.media.colours.spaces import (
    D50,
    LINEAR,
    SRGB_TO_XYZ,
    TRANSFERS,
    Curve,
    Matrix,
    Space,
    of_code_point,
    of_code_points,
    parametric,
)

HEADER_BYTES = 132  # with the number of tags
ENTRY_BYTES = 12  # of a tag in the index
GREY, RGB, CMYK = b"GRAY", b"RGB ", b"CMYK"
CHANNELS = {RGB: 3, CMYK: 4}
PARAMETERS = (1, 3, 4, 5, 7)  # of each kind of parametric curve
TABLE_TYPES = (b"mft1", b"mft2", b"mAB ")
IDENTITY = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
CURVES, COLOURS = (b"rTRC", b"gTRC", b"bTRC"), (b"rXYZ", b"gXYZ", b"bXYZ")
VERSION_2 = 0x02400000  # LittleCMS would make black of version 4 darker than browsers do
APPLICATION_DEFINED = 2  # code point: the profile's own tag counts


class MalformedProfileError(ValueError):
    """The profile breaks a rule, and browsers ignore all of it."""


class UnreadableProfileError(ValueError):
    """Browsers apply the profile, and it cannot be applied here."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a profile says. Either a space, or a table as a profile of its own. Of neither, pictures stay as stored."""

    channels: bytes  # GREY, RGB or CMYK
    space: Space | None = None
    table: bytes | None = None


def profile_of(file: bytes, code_points: bool) -> Profile | None:
    """None where browsers ignore the profile. `code_points`: whether a cicp tag counts; older viewers do not know it.

    Raises UnreadableProfileError.
    """
    try:
        return _Reader(file).profile(code_points)
    except (MalformedProfileError, struct.error, ArithmeticError):
        return None


def _fixed(file: bytes, offset: int, count: int) -> tuple[float, ...]:
    """Numbers of type s15Fixed16."""
    return tuple(value / 65536 for value in struct.unpack_from(f">{count}i", file, offset))


def _check(holds: bool) -> None:
    if not holds:
        raise MalformedProfileError


def written(light: Sequence[Sequence[float]], primaries: Matrix) -> bytes:
    """A profile of these tables of light, 0 to 1, one a channel. Raises struct.error where a primary is too far."""
    columns = zip(*primaries, strict=True)
    tags = {name: b"XYZ " + bytes(4) + _as_fixed(column) for name, column in zip(COLOURS, columns, strict=True)}
    for name, table in zip(CURVES, light, strict=True):
        numbers = (round(value * 65535) for value in table)
        tags[name] = b"curv" + bytes(4) + struct.pack(f">I{len(table)}H", len(table), *numbers)
    place = HEADER_BYTES + ENTRY_BYTES * len(tags)
    index = b""
    for name, value in tags.items():
        index += struct.pack(">4sII", name, place, len(value))
        place += len(value)
    header = struct.pack(">I4sI4s4s4s12x4s28x", place, b"", VERSION_2, b"mntr", RGB, b"XYZ ", b"acsp")
    return header + _as_fixed(D50) + bytes(48) + struct.pack(">I", len(tags)) + index + b"".join(tags.values())


def _as_fixed(numbers: Sequence[float]) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


class _Reader:
    def __init__(self, file: bytes) -> None:
        _check(len(file) >= HEADER_BYTES)
        size, version = struct.unpack_from(">I4xI", file)
        (count,) = struct.unpack_from(">I", file, 128)
        _check(HEADER_BYTES + ENTRY_BYTES * count <= size <= len(file))
        _check(file[36:40] == b"acsp" and version >> 24 <= 4 and file[20:24] in (b"XYZ ", b"Lab "))
        _check(all(abs(x - y) <= 0.01 for x, y in zip(_fixed(file, 68, 3), D50, strict=True)))
        self._file = file
        self._tags: dict[bytes, tuple[int, int]] = {}
        for number in range(count):
            name, offset, length = struct.unpack_from(">4sII", file, HEADER_BYTES + ENTRY_BYTES * number)
            _check(length >= 4 and offset + length <= size)
            self._tags.setdefault(name, (offset, offset + length))

    def _tag(self, name: bytes) -> bytes | None:
        place = self._tags.get(name)
        return None if place is None else self._file[slice(*place)]

    def profile(self, code_points: bool) -> Profile | None:
        channels = self._file[16:20]
        if channels == GREY:
            tag = self._tag(b"kTRC")
            if tag is None:
                return Profile(channels)
            curve = _curve(tag)
            return Profile(channels, Space((curve, curve, curve), SRGB_TO_XYZ))
        if channels not in CHANNELS:
            return None
        curves = self._curves()
        primaries = self._primaries()
        table = self._table(channels)
        space = self._code_points(curves, primaries) if code_points else None
        if space is None and table is None and curves is not None and primaries is not None:
            space = Space(curves, primaries)
        return Profile(channels, space, None if space else table)

    def _curves(self) -> tuple[Curve, Curve, Curve] | None:
        red, green, blue = (self._tag(name) for name in CURVES)
        if red is None or green is None or blue is None:
            return None
        return _curve(red), _curve(green), _curve(blue)

    def _primaries(self) -> Matrix | None:
        red, green, blue = (self._tag(name) for name in COLOURS)
        if red is None or green is None or blue is None:
            return None
        _check(all(tag[:4] == b"XYZ " and len(tag) >= 20 for tag in (red, green, blue)))
        x, y, z = zip(*(_fixed(tag, 8, 3) for tag in (red, green, blue)), strict=True)
        return x, y, z

    def _code_points(self, curves: tuple[Curve, Curve, Curve] | None, primaries: Matrix | None) -> Space | None:
        """The space that a cicp tag names, or of which it names a part."""
        tag = self._tag(b"cicp")
        if tag is None:
            return None
        _check(tag[:4] == b"cicp" and len(tag) >= 12)
        colours, transfer, coefficients, full = tag[8:12]
        if coefficients != 0 or full != 1:
            return None
        matrix = primaries if colours == APPLICATION_DEFINED else of_code_point(colours)
        if matrix is None:
            return None
        if transfer == APPLICATION_DEFINED:
            return Space(curves, matrix) if curves else None
        if transfer not in TRANSFERS:
            return None
        named = of_code_points(1, transfer)
        return Space(named.curves, matrix, named.transfer) if named else None

    def _table(self, channels: bytes) -> bytes | None:
        """A profile with the table that browsers use: A2B0, or A2B1 without it."""
        back = self._tag(b"B2A0") or self._tag(b"B2A1") or b"mBA "
        _check(back[:4] in (b"mft1", b"mft2", b"mBA "))
        tag = self._tag(b"A2B0") or self._tag(b"A2B1")
        if tag is None:
            return None
        _check(tag[:4] in TABLE_TYPES and len(tag) >= 52)
        _check(tag[8] == CHANNELS[channels] and tag[9] == 3)
        in_lab = self._file[20:24] == b"Lab "
        if tag[:4] != b"mAB ":
            tag = _as_browsers_read(tag, in_lab)
        else:
            _check_parts(tag)
            if not in_lab:  # of which browsers take another scale, too
                raise UnreadableProfileError
        begin = HEADER_BYTES + ENTRY_BYTES
        header = struct.pack(">I4sI", begin + len(tag), b"", VERSION_2) + self._file[12:64] + bytes(4)
        header += self._file[68:80] + bytes(48)
        return header + struct.pack(">I4sII", 1, b"A2B0", begin, len(tag)) + tag


def _check_parts(tag: bytes) -> None:
    """Of a table of type mAB: curves at its end are a must, a matrix comes with curves, and so does the grid."""
    last, matrix, middle, grid, first = struct.unpack_from(">5I", tag, 12)
    _check(bool(last) and bool(matrix) == bool(middle) and bool(grid) == bool(first))
    _check(bool(grid) or tag[8] == 3)
    _check(all(offset + 12 <= len(tag) for offset in (last, matrix, middle, grid, first)))


def _as_browsers_read(tag: bytes, in_lab: bool) -> bytes:
    """A table of type mft1 or mft2 that means to ImageCms what it means to browsers.

    Browsers ignore its matrix, and take the largest number for the white of Lab, and for 1 of XYZ.
    """
    wide = tag[:4] == b"mft2"
    inputs, outputs = struct.unpack_from(">HH", tag, 48) if wide else (256, 256)
    _check(2 <= inputs <= 4096 and 2 <= outputs <= 4096 and tag[10] >= 2)
    size, begin = (2, 52) if wide else (1, 48)
    end = begin + size * (inputs * tag[8] + 3 * tag[10] ** tag[8] + 3 * outputs)
    _check(len(tag) >= end)
    count = 3 * outputs
    scale = 1.0 if in_lab and not wide else 65280 / 65535 if in_lab else 0.5
    form = f">{count}{'H' if wide else 'B'}"
    last = struct.pack(form, *(round(value * scale) for value in struct.unpack(form, tag[end - size * count : end])))
    return tag[:12] + IDENTITY + tag[48 : end - size * count] + last


def _curve(tag: bytes) -> Curve:
    """Raises MalformedProfileError, as browsers ignore the profile then."""
    if tag[:4] == b"para":
        return _parametric(tag)
    _check(tag[:4] == b"curv" and len(tag) >= 12)
    count = int.from_bytes(tag[8:12])
    _check(len(tag) >= 12 + 2 * count)
    if count == 0:
        return LINEAR
    if count == 1:
        (exponent,) = struct.unpack_from(">H", tag, 12)
        return parametric(exponent / 256)
    values: tuple[int, ...] = struct.unpack_from(f">{count}H", tag, 12)

    def between(x: float) -> float:
        place = min(1.0, max(0.0, x)) * (count - 1)
        below = min(int(place), count - 2)
        part = place - below
        return values[below] / 65535 * (1 - part) + values[below + 1] / 65535 * part

    return between


def _single(value: float) -> float:
    """As a number of 32 bits: browsers check their curves with these."""
    (rounded,) = struct.unpack("f", struct.pack("f", value))
    return float(rounded)


def _parametric(tag: bytes) -> Curve:
    (kind,) = struct.unpack_from(">H", tag, 8)
    _check(kind < len(PARAMETERS) and len(tag) >= 12 + 4 * PARAMETERS[kind])
    g, *rest = _fixed(tag, 12, PARAMETERS[kind])
    a, b, c, d, e, f = 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if kind in (1, 2):
        a, b = rest[:2]
        _check(a != 0)
        d = -b / a
        e = f = rest[2] if kind == 2 else 0.0
    elif kind in (3, 4):
        a, b, c, d = rest[:4]
        e, f = rest[4:] if kind == 4 else (0.0, 0.0)
    _check(min(g, a, c, d) >= 0)
    _check(_single(_single(_single(a) * _single(d)) + _single(b)) >= 0)
    return parametric(g, a, b, c, d, e, f)
