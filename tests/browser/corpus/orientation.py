"""Turned pictures: wherever a file may say so, and what of it a browser heeds."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from tests.browser.corpus.case import Case
from tests.browser.writing.pictures import a_scene, samples
from tests.browser.writing.png import RGB, a_png, chunk
from tests.browser.writing.saved import exif_of, saved, segment, with_segments, xmp_of

TURNS = range(1, 9)


def cases() -> Iterator[Case]:
    """All eight turns where a browser heeds them, one elsewhere."""
    scene = a_scene()
    jpeg = saved(scene, "JPEG")
    for turn in (0, *TURNS, 9):
        yield Case(f"jpeg-exif-{turn}", "jpg", with_exif(jpeg, exif_of(turn)))
        yield Case(f"avif-exif-{turn}", "avif", saved(scene, "AVIF", quality=90, exif=exif_of(turn)))
    for name, exif in (
        ("little", exif_of(6, big=False)),
        ("of-four-bytes", exif_of(6, kind=4)),
        ("of-four-bytes-little", exif_of(6, big=False, kind=4)),
        ("far", exif_of(6, start=40)),
        ("cut", exif_of(6)[:-6]),
        ("without-its-end", exif_of(6)[:-4]),
        ("cut-in-its-value", exif_of(6)[:-8]),
        ("empty", b""),
        ("no-directory", exif_of(6)[:8]),
        ("no-order", b"XX" + exif_of(6)[2:]),
    ):
        yield Case(f"jpeg-exif-{name}", "jpg", with_exif(jpeg, exif))
    yield Case("jpeg-two-exifs", "jpg", with_segments(jpeg, _app1(exif_of(6)), _app1(exif_of(3))))
    yield Case("jpeg-xmp", "jpg", with_segments(jpeg, _xmp(6)))
    yield Case("jpeg-xmp-and-exif", "jpg", with_segments(jpeg, _xmp(6), _app1(exif_of(3))))
    yield Case("jpeg-xmp-and-upright-exif", "jpg", with_segments(jpeg, _xmp(6), _app1(exif_of(1))))
    yield Case("jpeg-exif-late", "jpg", _late(jpeg, _app1(exif_of(6))))
    pixels = samples(scene, 8)
    for turn in (1, 3, 6):
        yield Case(f"png-exif-{turn}", "png", a_png(pixels, RGB, 8, [chunk(b"eXIf", exif_of(turn))]))
    yield Case("png-exif-prefixed", "png", a_png(pixels, RGB, 8, [chunk(b"eXIf", b"Exif\0\0" + exif_of(6))]))
    plain = a_png(pixels, RGB, 8)
    yield Case("png-exif-late", "png", plain[:-12] + chunk(b"eXIf", exif_of(6)) + plain[-12:])
    raw = b"\nexif\n%8d\n" % (len(exif_of(6)) + 6) + (b"Exif\0\0" + exif_of(6)).hex().encode() + b"\n"
    key = b"Raw profile type exif\0"
    yield Case("png-raw-text", "png", a_png(pixels, RGB, 8, [chunk(b"tEXt", key + raw)]))
    yield Case("png-raw-packed-text", "png", a_png(pixels, RGB, 8, [chunk(b"zTXt", key + b"\0" + zlib.compress(raw))]))
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_of(6)
    yield Case("png-xmp", "png", a_png(pixels, RGB, 8, [chunk(b"iTXt", xmp)]))
    for turn in (1, 3, 6):
        yield Case(f"webp-exif-{turn}", "webp", saved(scene, "WEBP", lossless=True, exif=exif_of(turn)))
    yield Case("webp-exif-prefixed", "webp", saved(scene, "WEBP", lossless=True, exif=b"Exif\0\0" + exif_of(6)))
    yield Case("webp-xmp", "webp", saved(scene, "WEBP", lossless=True, xmp=xmp_of(6)))
    yield Case("avif-xmp", "avif", saved(scene, "AVIF", quality=90, xmp=xmp_of(6)))
    yield Case("gif-xmp", "gif", saved(scene, "GIF", xmp=xmp_of(6)))


def with_exif(jpeg: bytes, exif: bytes) -> bytes:
    """The JPEG file with an EXIF block."""
    return with_segments(jpeg, _app1(exif))


def _app1(exif: bytes) -> bytes:
    return segment(0xE1, b"Exif\0\0" + exif)


def _xmp(turn: int) -> bytes:
    return segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp_of(turn))


def _late(jpeg: bytes, part: bytes) -> bytes:
    """The segment directly before the picture's data, behind tables and frame."""
    scan = jpeg.index(b"\xff\xda")
    return jpeg[:scan] + part + jpeg[scan:]
