"""Builds ICC profiles: ordinary ones, and such as show another picture than the one that is stored."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

Curve = bytes
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))  # XYZ of each, in D50
EXCHANGED = (SRGB[1], SRGB[0], SRGB[2])  # red is green, and green is red
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO = ((0.79767, 0.28804, 0.0), (0.13518, 0.71187, 0.0), (0.03131, 0.00009, 0.82491))
REC_2020 = ((0.67348, 0.27903, -0.00194), (0.16566, 0.67534, 0.02998), (0.12505, 0.04561, 0.79686))


def s15(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def gamma(value: float) -> Curve:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


def table(values: Sequence[float]) -> Curve:
    """Values from 0 to 1."""
    numbers = [round(value * 65535) for value in values]
    return b"curv" + bytes(4) + struct.pack(f">I{len(numbers)}H", len(numbers), *numbers)


def parametric(kind: int, *values: float) -> Curve:
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + s15(*values)


SRGB_CURVE = parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def profile(tags: Mapping[bytes, bytes], space: bytes = b"RGB ", pcs: bytes = b"XYZ ", version: int = 2) -> bytes:
    """A profile of these tags. Tags with the same bytes share them, as in files of cameras."""
    places: dict[bytes, int] = {}
    body = b""
    begin = 128 + 4 + 12 * len(tags)
    index = b""
    for name, value in tags.items():
        if value not in places:
            places[value] = begin + len(body)
            body += value + bytes(-len(value) % 4)
        index += struct.pack(">4sII", name, places[value], len(value))
    header = struct.pack(">I4sI4s4s4s", begin + len(body), b"", version << 24, b"mntr", space, pcs)
    header += bytes(12) + b"acsp" + bytes(28) + s15(0.9642, 1.0, 0.8249) + bytes(48)
    return header + struct.pack(">I", len(tags)) + index + body


def rgb(primaries: Sequence[Sequence[float]] = SRGB, *curves: Curve, version: int = 2, **more: bytes) -> bytes:
    """A profile of three colours and a curve for each, or one for all."""
    red, green, blue = (b"XYZ " + bytes(4) + s15(*each) for each in primaries)
    curves = curves or (SRGB_CURVE,)
    curves = curves * 3 if len(curves) == 1 else curves
    tags = {b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue, b"wtpt": b"XYZ " + bytes(4) + s15(0.9642, 1.0, 0.8249)}
    tags |= dict(zip((b"rTRC", b"gTRC", b"bTRC"), curves, strict=True))
    return profile(tags | {name.encode(): value for name, value in more.items()}, version=version)


def grey(curve: Curve) -> bytes:
    return profile({b"kTRC": curve, b"wtpt": b"XYZ " + bytes(4) + s15(0.9642, 1.0, 0.8249)}, b"GRAY")


def lut16(inputs: int, grid: int, colours: Sequence[Sequence[float]], curve: Sequence[float] = (0, 1)) -> bytes:
    """A table of type mft2: for each point of the grid, the last channel first, its three values from 0 to 1."""
    head = b"mft2" + bytes(4) + struct.pack(">BBBB", inputs, 3, grid, 0) + s15(1, 0, 0, 0, 1, 0, 0, 0, 1)
    curves = struct.pack(f">{len(curve)}H", *(round(value * 65535) for value in curve))
    points = [min(65535, max(0, round(value * 65535))) for colour in colours for value in colour]
    sizes = struct.pack(">HH", len(curve), 2)
    return head + sizes + curves * inputs + struct.pack(f">{len(points)}H", *points) + struct.pack(">2H", 0, 65535) * 3


def code_points(primaries: int, transfer: int) -> bytes:
    """A tag that names the space."""
    return b"cicp" + bytes(4) + bytes([primaries, transfer, 0, 1])


def lab(red: float, green: float, blue: float) -> tuple[float, float, float]:
    """A colour of sRGB, from 0 to 1, as Lab in the form of a table of 16 bits."""
    light = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in (red, green, blue)]
    xyz = [sum(SRGB[colour][axis] * light[colour] for colour in range(3)) for axis in range(3)]
    relative = [value / white for value, white in zip(xyz, (0.9642, 1.0, 0.8249), strict=True)]
    x, y, z = (t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116 for t in relative)
    return (
        (116 * y - 16) / 100 * 65280 / 65535,
        (500 * (x - y) + 128) * 256 / 65535,
        (200 * (y - z) + 128) * 256 / 65535,
    )


def inverted_lut(grid: int = 9) -> bytes:
    """A table that shows the negative."""
    steps = [1 - place / (grid - 1) for place in range(grid)]
    return lut16(3, grid, [lab(red, green, blue) for red in steps for green in steps for blue in steps])


def inverted_table() -> bytes:
    return profile({b"A2B0": inverted_lut()}, pcs=b"Lab ")


def inks(grid: int = 5) -> bytes:
    """A profile of CMYK, of inks that are not quite pure on paper that is not quite white."""
    steps = [place / (grid - 1) for place in range(grid)]
    colours = [
        lab(*((1 - ink) * (1 - black) * 0.9 + 0.05 for ink in (cyan, magenta, yellow)))
        for cyan in steps
        for magenta in steps
        for yellow in steps
        for black in steps
    ]
    return profile({b"A2B0": lut16(4, grid, colours)}, b"CMYK", b"Lab ")


def lowest_bit() -> bytes:
    """By its curves, odd samples are white and even ones black."""
    return rgb(SRGB, table([level % 2 for level in range(256)]))


def lowest_bit_table() -> bytes:
    """The same by a table."""
    corners = [lab(red, green, blue) for red in (0, 1) for green in (0, 1) for blue in (0, 1)]
    return profile({b"A2B0": lut16(3, 2, corners, [level % 2 for level in range(256)])}, pcs=b"Lab ")
