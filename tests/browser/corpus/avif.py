"""AVIF: subsampling, ranges, alpha, odd sizes, and what boxes make of coded pictures."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

from PIL import Image as pil

from tests.browser.corpus.case import Case
from tests.browser.writing.avif import ALPHA, a_file, a_grid, box, coded, cropped, deeper, full_box, mirrored, turned
from tests.browser.writing.pictures import a_scene, with_alpha
from tests.browser.writing.saved import saved


def cases() -> Iterator[Case]:
    """Files that differ in one thing each."""
    for name, data in _files():
        yield Case(name, "avif", data)


def _files() -> Iterator[tuple[str, bytes]]:
    scene = a_scene(150, 110)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0", "4:0:0"):
        for range in ("full", "limited"):
            name = f"{subsampling.replace(':', '')}-{range}"
            yield name, saved(scene, "AVIF", subsampling=subsampling, range=range, quality=80)
            yield f"{name}-alpha", saved(with_alpha(scene), "AVIF", subsampling=subsampling, range=range, quality=80)
    yield "premultiplied", saved(with_alpha(scene), "AVIF", quality=90, alpha_premultiplied=True)
    yield "grey", saved(scene.convert("L"), "AVIF", quality=90)
    yield "quality-10", saved(scene, "AVIF", quality=10)
    yield "tiles", saved(a_scene(300, 300), "AVIF", quality=70, tile_rows=1, tile_cols=1)
    for width, height in ((1, 1), (1, 17), (7, 9), (17, 33), (400, 5)):
        yield f"{width}x{height}", saved(a_scene(width, height), "AVIF", quality=90)
    yield from _boxes()


def _boxes() -> Iterator[tuple[str, bytes]]:
    scene = a_scene(140, 100)
    yield "boxes", a_file([coded(scene)])
    for quarters in range(4):
        yield f"turned-{quarters}", a_file([coded(scene, turned(quarters))])
        for axis in (0, 1):
            yield f"turned-{quarters}-mirrored-{axis}", a_file([coded(scene, turned(quarters), mirrored(axis))])
            yield f"mirrored-{axis}-turned-{quarters}", a_file([coded(scene, mirrored(axis), turned(quarters))])
    for name, crop in (
        ("middle", cropped(100, 60, (0, 1), (0, 1))),
        ("corner", cropped(100, 60, (-20, 1), (-20, 1))),
        ("right", cropped(100, 60, (20, 1), (20, 1))),
        ("whole", cropped(140, 100, (0, 1), (0, 1))),
        ("too-large", cropped(200, 100, (0, 1), (0, 1))),
        ("outside", cropped(100, 60, (90, 1), (0, 1))),
        ("nothing-below", cropped(100, 60, (0, 0), (0, 1))),
    ):
        yield f"cropped-{name}", a_file([coded(scene, crop)])
        yield f"cropped-{name}-turned", a_file([coded(scene, crop, turned(1))])
    for depth in (10, 12):
        for sampling in ("4:4:4", "4:2:0", "4:0:0"):
            for levels in ("full", "limited"):
                item = deeper(coded(scene, subsampling=sampling, range=levels), depth)
                yield f"bits-{depth}-{sampling.replace(':', '')}-{levels}", a_file([item])
    yield "not-square", a_file([coded(scene, box(b"pasp", struct.pack(">II", 2, 1)))])
    yield "unknown-property", a_file([coded(scene, box(b"zzzz", b"anything"))])
    large = a_scene(256, 192)
    for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 4)):
        yield f"grid-{rows}x{columns}", a_file(a_grid(large, rows, columns))
    yield "grid-turned", a_file(a_grid(large, 2, 2, turned(1)))
    yield "grid-smaller-than-its-tiles", a_file(a_grid(a_scene(250, 190), 2, 2))
    plain = a_file([coded(scene)])
    for brand in (b"mif1", b"heic", b"zzzz"):
        yield f"brand-{brand.decode()}", plain[:8] + brand + plain[12:]
    yield from _alphas(scene)
    other = coded(scene.rotate(180), hidden=True)
    yield "two-pictures", a_file([coded(scene), other])
    yield "the-second-is-shown", a_file([other, coded(scene)], primary=2)
    yield "thumbnail", a_file([coded(scene), replace(other, references=[(b"thmb", (1,))])])


def _alphas(scene: pil.Image) -> Iterator[tuple[str, bytes]]:
    """Alpha is another picture, which says of which one it is."""
    levels = with_alpha(scene).getchannel("A")
    kind = full_box(b"auxC", ALPHA)
    for name, more in (("", ()), ("-turned", (turned(1),))):
        alpha = coded(levels, kind, *more, hidden=True, subsampling="4:0:0")
        plain = replace(alpha, properties=[each for each in alpha.properties if each[4:8] != b"colr"])
        for label, item in (("", plain), ("-with-colours", alpha)):
            shown = replace(item, references=[(b"auxl", (1,))])
            yield f"alpha{name}{label}", a_file([coded(scene, *more), shown])
            whole = coded(scene, *more)
            yield f"alpha{name}{label}-premultiplied", a_file([replace(whole, references=[(b"prem", (2,))]), shown])
