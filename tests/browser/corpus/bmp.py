"""BMP: all depths, headers, bitfields and runs that are about, and what writers get wrong."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from tests.browser.corpus.case import Case
from tests.browser.writing import bmp
from tests.browser.writing.bmp import OS2, OS2_V2, V2, V3, V4, V5, Samples, a_bmp, fields, rle4, rle8, rows
from tests.browser.writing.pictures import a_scene, samples, with_alpha
from tests.browser.writing.saved import saved

SIZE = (61, 42)  # rows that must be filled up
MASKS = {
    "16-565": (16, (0xF800, 0x07E0, 0x001F)),
    "16-555": (16, (0x7C00, 0x03E0, 0x001F)),
    "16-444": (16, (0x0F00, 0x00F0, 0x000F)),
    "16-bgr": (16, (0x001F, 0x07E0, 0xF800)),
    "16-833": (16, (0xFF00, 0x00E0, 0x001C)),
    "16-4444": (16, (0x0F00, 0x00F0, 0x000F, 0xF000)),
    "16-1555": (16, (0x7C00, 0x03E0, 0x001F, 0x8000)),
    "32-888": (32, (0xFF0000, 0xFF00, 0xFF)),
    "32-rgbx": (32, (0xFF000000, 0xFF0000, 0xFF00)),
    "32-bgr": (32, (0xFF, 0xFF00, 0xFF0000)),
    "32-101010": (32, (0x3FF00000, 0xFFC00, 0x3FF)),
    "32-111110": (32, (0xFFE00000, 0x1FFC00, 0x3FF)),
    "32-565": (32, (0xF800, 0x07E0, 0x001F)),
    "32-8888": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    "32-rgba": (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
    "32-abgr": (32, (0xFF000000, 0xFF0000, 0xFF00, 0xFF)),
    "32-7777": (32, (0xFE00000, 0x1FC000, 0x3F80, 0x7F)),
    "32-one-bit": (32, (0x1, 0x2, 0x4)),
}

NOT_SHOWN = {
    *(f"wrong-{name}" for name in ("header-66", "header-13", "negative-width", "no-width", "no-height")),
    *("wrong-bits-64", "wrong-bits-3", "bitfields-16-in-pieces"),
    *(f"inside-{name}{bits}" for name in ("jpeg", "png", "huffman") for bits in ("", "-bits-0")),
}


def cases() -> Iterator[Case]:
    """Files that differ in one thing each. What a browser does not show says so."""
    for name, data in _files():
        yield Case(name, "bmp", data, shown=name not in NOT_SHOWN)


def _indexed(count: int, size: tuple[int, int] = SIZE) -> tuple[Samples, list[list[int]]]:
    picture = a_scene(*size).quantize(count)
    palette = picture.getpalette() or []
    return np.asarray(picture), [palette[at : at + 3] for at in range(0, 3 * count, 3)]


def _files() -> Iterator[tuple[str, bytes]]:
    levels = samples(a_scene(*SIZE), 8)
    for bits in (1, 2, 4, 8):
        indices, colours = _indexed(1 << bits)
        yield f"palette-{bits}", a_bmp(rows(indices, bits), SIZE, bits, colours=colours)
        yield (
            f"palette-{bits}-top-down",
            a_bmp(rows(indices, bits, top_down=True), SIZE, bits, colours=colours, top_down=True),
        )
        if bits != 2:
            yield f"os2-palette-{bits}", a_bmp(rows(indices, bits), SIZE, bits, header=OS2, colours=colours)
        yield f"palette-{bits}-all-told", a_bmp(rows(indices, bits), SIZE, bits, colours=colours, used=0)
        yield f"palette-{bits}-gap", a_bmp(rows(indices, bits), SIZE, bits, colours=colours, gap=12)
        few, fewer = _indexed(max(2, (1 << bits) - 3))
        yield f"palette-{bits}-short", a_bmp(rows(few, bits), SIZE, bits, colours=fewer)
        yield f"palette-{bits}-beyond", a_bmp(rows(few, bits), SIZE, bits, colours=fewer[:2])
        if bits < 8:
            yield (
                f"palette-{bits}-too-many",
                a_bmp(rows(indices, bits), SIZE, bits, colours=[*colours, *[[1, 2, 3]] * 300]),
            )
    yield from _plain(levels)
    yield from _fields(levels)
    yield from _runs()
    yield from _wrong(levels)


def _wrong(levels: Samples) -> Iterator[tuple[str, bytes]]:
    """What writers get wrong, and what few readers know."""
    whole = a_bmp(rows(levels, 24), SIZE, 24)
    for name, place, value in (
        ("header-66", 14, 66),
        ("header-13", 14, 13),
        ("planes", 26, 24 << 16 | 7),
        ("density", 38, 0xFFFFFFFF),
        ("negative-width", 18, (1 << 32) - 61),
        ("no-width", 18, 0),
        ("no-height", 22, 0),
        ("bits-64", 28, 64),
        ("bits-3", 28, 3),
        ("told-many-colours", 46, 1 << 28),
        ("starts-at-0", 10, 0),
        ("starts-in-the-header", 10, 20),
        ("length", 2, 1 << 30),
    ):
        yield f"wrong-{name}", whole[:place] + struct.pack("<I", value) + whole[place + 4 :]
    for name, compression, data in (
        ("jpeg", 4, saved(a_scene(*SIZE), "JPEG")),
        ("png", 5, saved(a_scene(*SIZE), "PNG")),
        ("huffman", 3, bytes(200)),
    ):
        header = OS2_V2 if name == "huffman" else 40
        bits = 1 if name == "huffman" else 24
        yield f"inside-{name}", a_bmp(data, SIZE, bits, header=header, compression=compression)
        yield f"inside-{name}-bits-0", a_bmp(data, SIZE, 0, header=header, compression=compression)
    indices, colours = _indexed(16)
    yield "os2-short-palette", a_bmp(rows(indices, 8), SIZE, 8, header=OS2, colours=colours)
    yield "palette-starts-late", a_bmp(rows(indices, 8), SIZE, 8, colours=colours, used=0, gap=0)
    one = [colours[0]]
    yield "palette-of-one", a_bmp(rows(indices % 2, 1), SIZE, 1, colours=one)
    for name, masks in (
        ("880", (0xFF00, 0x00FF, 0)),
        ("231", (0x30, 0xE, 1)),
        ("3103", (0xE000, 0x1FF8, 7)),
        ("in-pieces", (0xF00F, 0x0F0, 0xF00)),
        ("across", (0xFFF, 0xFF0, 0xF)),
    ):
        yield (
            f"bitfields-16-{name}",
            a_bmp(rows(fields(levels, masks), 16), SIZE, 16, compression=bmp.BITFIELDS, masks=masks),
        )
    layered = samples(with_alpha(a_scene(*SIZE)), 8)
    for name, four in (
        ("1010102", (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000)),
        ("81284", (0xFF, 0xFFF00, 0xFF00000, 0xF0000000)),
        ("1", (0xFFFFFF00, 0, 0, 0xFF)),
        ("61754", (0x3F, 0x7FFFC0, 0xF800000, 0xF0000000)),
    ):
        yield (
            f"bitfields-32-{name}",
            a_bmp(rows(fields(layered, four), 32), SIZE, 32, header=V5, compression=bmp.BITFIELDS, masks=four),
        )


def _plain(levels: Samples) -> Iterator[tuple[str, bytes]]:
    grey = np.asarray(a_scene(*SIZE).convert("L"))
    yield "grey-8", a_bmp(rows(grey, 8), SIZE, 8, colours=[[level] * 3 for level in range(256)])
    black_white = (grey > 128).astype(int)
    for name, colours in (("black-white", [[0] * 3, [255] * 3]), ("white-black", [[255] * 3, [0] * 3])):
        yield f"palette-1-{name}", a_bmp(rows(black_white, 1), SIZE, 1, colours=colours)
    yield "rgb-24", a_bmp(rows(levels, 24), SIZE, 24)
    yield "rgb-24-top-down", a_bmp(rows(levels, 24, top_down=True), SIZE, 24, top_down=True)
    yield "rgb-24-palette", a_bmp(rows(levels, 24), SIZE, 24, colours=[[1, 2, 3]] * 256)
    yield "rgb-24-gap", a_bmp(rows(levels, 24), SIZE, 24, gap=40)
    yield "os2-rgb-24", a_bmp(rows(levels, 24), SIZE, 24, header=OS2)
    for header in (V2, V3, V4, V5, OS2_V2):
        yield f"rgb-24-header-{header}", a_bmp(rows(levels, 24), SIZE, 24, header=header)
    yield "rgb-24-size-told-wrong", _told(a_bmp(rows(levels, 24), SIZE, 24))
    for side in ((1, 1), (1, 9), (7, 2), (32, 32), (300, 3)):
        yield f"rgb-24-{side[0]}x{side[1]}", a_bmp(rows(samples(a_scene(*side), 8), 24), side, 24)
    for header in (16, 24, 42, 46):
        yield f"os2-header-{header}", a_bmp(rows(levels, 24), SIZE, 24, header=header)


def _fields(levels: Samples) -> Iterator[tuple[str, bytes]]:
    yield "rgb-16", a_bmp(rows(fields(levels, MASKS["16-555"][1]), 16), SIZE, 16)
    yield "rgb-32", a_bmp(rows(fields(levels, MASKS["32-888"][1]), 32), SIZE, 32)
    layered = samples(with_alpha(a_scene(*SIZE)), 8)
    yield "rgb-32-fourth-byte", a_bmp(rows(fields(layered, MASKS["32-8888"][1]), 32), SIZE, 32)
    for header in (V3, V4, V5):
        told = a_bmp(rows(fields(layered, MASKS["32-8888"][1]), 32), SIZE, 32, header=header)
        yield f"rgb-32-fourth-byte-header-{header}", told
    for name, (bits, masks) in MASKS.items():
        pixels = fields(layered if len(masks) == 4 else levels, masks)
        for header in (40, V2, V3, V4, V5):
            if len(masks) == 4 and header in (40, V2):
                continue
            data = rows(pixels, bits)
            label = f"bitfields-{name}{'' if header == 40 else f'-header-{header}'}"
            yield label, a_bmp(data, SIZE, bits, header=header, compression=bmp.BITFIELDS, masks=masks)
    pixels = fields(levels, MASKS["32-888"][1])
    for header in (V4, V5):
        for name, alpha in (("clear", 0), ("mixed", None)):
            numbers = pixels.copy()
            if alpha is None:
                numbers[:20] |= np.uint64(0xFF000000)
            data = a_bmp(
                rows(numbers, 32), SIZE, 32, header=header, compression=bmp.BITFIELDS, masks=MASKS["32-8888"][1]
            )
            yield f"bitfields-alpha-all-{name}-{header}", data
    data = rows(fields(layered, MASKS["32-8888"][1]), 32)
    yield "alpha-bitfields", a_bmp(data, SIZE, 32, compression=bmp.ALPHA_BITFIELDS, masks=MASKS["32-8888"][1])


def _told(data: bytes) -> bytes:
    return data[:2] + struct.pack("<I", 77) + data[6:34] + struct.pack("<I", 5) + data[38:]


def _runs() -> Iterator[tuple[str, bytes]]:
    indices, colours = _indexed(200)
    yield "rle8", a_bmp(rle8(indices), SIZE, 8, compression=bmp.RLE8, colours=colours)
    yield (
        "rle8-all-told",
        a_bmp(rle8(indices), SIZE, 8, compression=bmp.RLE8, colours=colours + [[0, 0, 0]] * 56, used=0),
    )
    few, sixteen = _indexed(16)
    yield "rle4", a_bmp(rle4(few), SIZE, 4, compression=bmp.RLE4, colours=sixteen)
    palette = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 200, 0]]
    for name, code in (
        ("short-lines", b"".join(bytes([20 + number, number % 4, 0, 0]) for number in range(20)) + b"\0\1"),
        ("delta", b"\x10\1\0\2\5\3\x20\2\0\0\0\2\3\6\x08\3\0\1"),
        ("early-end", b"\x3d\1\0\0\x3d\2\0\0\0\1"),
        ("too-long-lines", b"".join(bytes([70, number % 4, 0, 0]) for number in range(42)) + b"\0\1"),
        ("no-line-ends", b"".join(bytes([61, number % 4]) for number in range(42)) + b"\0\1"),
        ("no-end", b"".join(bytes([61, number % 4, 0, 0]) for number in range(42))),
        ("beyond-the-palette", b"".join(bytes([61, number % 9, 0, 0]) for number in range(42)) + b"\0\1"),
    ):
        yield f"rle8-{name}", a_bmp(code, SIZE, 8, compression=bmp.RLE8, colours=palette)
    yield (
        "rle8-cut",
        a_bmp(
            b"".join(bytes([61, number % 4, 0, 0]) for number in range(20)),
            SIZE,
            8,
            compression=bmp.RLE8,
            colours=palette,
        ),
    )
    code = b"".join(bytes([61, number, 2 * number, 200, 0, 0]) for number in range(42)) + b"\0\1"
    yield "rle24", a_bmp(code, SIZE, 24, header=OS2_V2, compression=bmp.RLE24)
    yield "rle8-top-down", a_bmp(rle8(indices), SIZE, 8, compression=bmp.RLE8, colours=colours, top_down=True)
    yield (
        "rle4-delta",
        a_bmp(b"\x10\x12\0\2\5\3\x20\x23\0\0\0\2\3\6\x08\x30\0\1", SIZE, 4, compression=bmp.RLE4, colours=palette),
    )
