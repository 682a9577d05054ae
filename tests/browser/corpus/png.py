"""PNG: all that its header can say, transparency without an alpha channel, and chunks that change nothing."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image as pil

from tests.browser.corpus.case import Case
from tests.browser.writing.pictures import a_scene, samples, with_alpha
from tests.browser.writing.png import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, Samples, a_png, chunk, palette

DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
NAMES = {GREY: "grey", RGB: "rgb", PALETTE: "palette", GREY_ALPHA: "grey-alpha", RGBA: "rgba"}
MODES = {GREY: "L", RGB: "RGB", GREY_ALPHA: "LA", RGBA: "RGBA"}


def cases() -> Iterator[Case]:
    """Files that differ in one thing each."""
    for name, data in _files():
        yield Case(name, "png", data)


def _files() -> Iterator[tuple[str, bytes]]:
    for colour, depths in DEPTHS.items():
        for depth in depths:
            for interlaced in (False, True):
                name = f"{NAMES[colour]}-{depth}{'-interlaced' if interlaced else ''}"
                pixels, chunks = _of(colour, depth)
                yield name, a_png(pixels, colour, depth, chunks, interlaced=interlaced, filter=None)
    for width, height in ((1, 1), (1, 9), (2, 3), (5, 1), (7, 8), (33, 40), (300, 3)):
        pixels = samples(a_scene(width, height), 8)
        yield f"size-{width}x{height}", a_png(pixels, RGB, 8)
        yield f"size-{width}x{height}-interlaced", a_png(pixels, RGB, 8, interlaced=True)
    for filter in range(5):
        yield f"filter-{filter}", a_png(samples(a_scene(), 16), RGB, 16, filter=filter)
    yield from _transparent()
    yield from _palettes()
    yield from _chunks()


def _of(colour: int, depth: int, width: int = 90, height: int = 70) -> tuple[Samples, list[bytes]]:
    """A scene's samples in that form, and the chunks that they need."""
    scene = a_scene(width, height)
    if colour == PALETTE:
        count = 1 << depth
        indexed = scene.quantize(count)
        colours = np.resize(np.asarray(indexed.getpalette(), np.uint8), (count, 3)).tolist()
        return np.asarray(indexed)[:, :, None], [palette(colours)]
    picture = with_alpha(scene) if colour in (GREY_ALPHA, RGBA) else scene
    return samples(picture.convert(MODES[colour]), depth), []


def _transparent() -> Iterator[tuple[str, bytes]]:
    """One colour that is clear, and the alpha of a palette's colours."""
    for depth in DEPTHS[GREY]:
        pixels, _ = _of(GREY, depth)
        for name, clear in (
            ("common", int(np.median(pixels))),
            ("none", (1 << depth) // 3),
            ("white", (1 << depth) - 1),
        ):
            for interlaced in (False, True):
                mark = chunk(b"tRNS", struct.pack(">H", clear))
                label = f"{name}{'-interlaced' if interlaced else ''}"
                yield f"trns-grey-{depth}-{label}", a_png(pixels, GREY, depth, [mark], interlaced=interlaced)
    for depth in DEPTHS[RGB]:
        pixels, _ = _of(RGB, depth)
        mark = chunk(b"tRNS", struct.pack(">HHH", *pixels[0, 0].tolist()))
        yield f"trns-rgb-{depth}", a_png(pixels, RGB, depth, [mark])
    # In 16 bits, colours that share their upper byte with the clear one are other colours.
    near = np.full((40, 40, 3), 0x1234, np.uint32)
    near[:, 20:] = 0x12FF
    yield "trns-rgb-16-near", a_png(near, RGB, 16, [chunk(b"tRNS", struct.pack(">HHH", *[0x1234] * 3))])
    yield "trns-grey-16-near", a_png(near[:, :, :1], GREY, 16, [chunk(b"tRNS", struct.pack(">H", 0x1234))])
    # Of the mark's 16 bits, those beyond the depth say nothing.
    pixels, _ = _of(GREY, 4)
    yield (
        "trns-grey-4-high-bits",
        a_png(pixels, GREY, 4, [chunk(b"tRNS", struct.pack(">H", 0xF0 | int(pixels[0, 0, 0])))]),
    )
    pixels, _ = _of(GREY, 8)
    yield (
        "trns-grey-8-high-bits",
        a_png(pixels, GREY, 8, [chunk(b"tRNS", struct.pack(">H", 0x100 | int(pixels[0, 0, 0])))]),
    )
    for depth in DEPTHS[PALETTE]:
        pixels, chunks = _of(PALETTE, depth)
        count = 1 << depth
        for name, alphas in (
            ("all", bytes(255 * index // (count - 1) for index in range(count))),
            ("first", b"\0"),
            ("half", bytes([128] * (count // 2))),
            ("too-many", bytes([100] * (count + 3))),
            ("empty", b""),
        ):
            for interlaced in (False, True) if name == "all" else (False,):
                label = f"trns-palette-{depth}-{name}{'-interlaced' if interlaced else ''}"
                yield label, a_png(pixels, PALETTE, depth, [*chunks, chunk(b"tRNS", alphas)], interlaced=interlaced)
    rgba, _ = _of(RGBA, 8)
    yield "trns-rgba", a_png(rgba, RGBA, 8, [chunk(b"tRNS", struct.pack(">HHH", *rgba[0, 0, :3].tolist()))])
    unseen = with_alpha(a_scene())
    unseen.putalpha(pil.new("L", unseen.size, 0))
    yield "rgba-all-clear", a_png(samples(unseen, 8), RGBA, 8)


def _palettes() -> Iterator[tuple[str, bytes]]:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    for depth in DEPTHS[PALETTE]:
        stripes = np.repeat(np.arange(40) // 10 % (2 if depth == 1 else 3), 30).reshape(40, 30, 1)
        yield f"palette-short-{depth}", a_png(stripes, PALETTE, depth, [palette(colours[: 2 if depth == 1 else 3])])
        beyond = np.repeat(np.arange(40) // 10 % (1 << depth), 30).reshape(40, 30, 1)
        yield f"palette-beyond-{depth}", a_png(beyond, PALETTE, depth, [palette(colours[:1])])
        yield (
            f"palette-beyond-{depth}-trns",
            a_png(beyond, PALETTE, depth, [palette(colours[:1]), chunk(b"tRNS", bytes([90]))]),
        )
    pixels, _ = _of(RGB, 8)
    yield "palette-suggested", a_png(pixels, RGB, 8, [palette(colours)])
    beyond = np.repeat(np.arange(40) // 10, 30).reshape(40, 30, 1)
    for name, clear in (("", ()), ("-trns", (chunk(b"tRNS", bytes([255, 90])),))):
        yield f"palette-beyond-two{name}", a_png(beyond, PALETTE, 8, [palette(colours[1:]), *clear])
    few, chunks = _of(PALETTE, 2)
    four = chunk(b"tRNS", bytes([0, 90, 255, 10]))
    whole = a_png(few, PALETTE, 8, chunks)
    yield "trns-before-the-palette", a_png(few, PALETTE, 8, [four, *chunks])
    yield "trns-twice", a_png(few, PALETTE, 8, [*chunks, four, chunk(b"tRNS", bytes(4))])
    yield "trns-late", whole[:-12] + four + whole[-12:]
    yield "palette-late", a_png(few, PALETTE, 8)[:-12] + chunks[0] + whole[-12:]
    yield "no-palette", a_png(few, PALETTE, 8)
    yield "palette-trns-longer", a_png(few, PALETTE, 8, [*chunks, chunk(b"tRNS", bytes([100] * 9))])
    yield "palette-of-ten-bytes", a_png(few, PALETTE, 8, [chunk(b"PLTE", bytes(range(10)))])


def _chunks() -> Iterator[tuple[str, bytes]]:
    """Chunks that change nothing that a browser shows."""
    pixels, _ = _of(RGBA, 8)
    for name, mark in (
        ("bkgd", chunk(b"bKGD", struct.pack(">HHH", 0, 255, 0))),
        ("phys", chunk(b"pHYs", struct.pack(">IIB", 1_000, 4_000, 1))),
        ("sbit", chunk(b"sBIT", bytes([5, 6, 5, 1]))),
        ("text", chunk(b"tEXt", b"Comment\0a text")),
        ("time", chunk(b"tIME", struct.pack(">HBBBBB", 2026, 1, 1, 0, 0, 0))),
        ("offs", chunk(b"oFFs", struct.pack(">iiB", 40, 40, 0))),
        ("unknown", chunk(b"zzZz", b"anything")),
    ):
        yield f"chunk-{name}", a_png(pixels, RGBA, 8, [mark])
    # A text may have the name that a library gives to something else.
    rgb, _ = _of(RGB, 8)
    grey, _ = _of(GREY, 8)
    indices, chunks = _of(PALETTE, 8)
    for key in (b"transparency", b"exif", b"icc_profile", b"gamma", b"srgb", b"duration", b"interlace", b"dpi"):
        text = chunk(b"tEXt", key + b"\0text")
        yield f"text-{key.decode()}", a_png(rgb, RGB, 8, [text])
        yield f"text-{key.decode()}-grey", a_png(grey, GREY, 8, [text])
        yield f"text-{key.decode()}-palette", a_png(indices, PALETTE, 8, [*chunks, text])
        packed = chunk(b"zTXt", key + b"\0\0" + zlib.compress(b"text"))
        yield f"packed-text-{key.decode()}", a_png(rgb, RGB, 8, [packed])
    yield "idat-1-byte", a_png(pixels[:20, :20], RGBA, 8, pieces=1)
    grey, _ = _of(GREY, 4)
    yield "sbit-grey-4", a_png(grey, GREY, 4, [chunk(b"sBIT", b"\x03")])
    grey, _ = _of(GREY, 16)
    yield "sbit-grey-16", a_png(grey, GREY, 16, [chunk(b"sBIT", b"\x0a")])
