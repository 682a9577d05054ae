"""WebP: lossy, lossless, with alpha, at odd sizes."""

from __future__ import annotations

from collections.abc import Iterator

from tests.browser.corpus.case import Case
from tests.browser.writing.pictures import a_scene, with_alpha
from tests.browser.writing.saved import saved
from tests.browser.writing.webp import ALPHA, a_file, chunks_of, header


def cases() -> Iterator[Case]:
    """Files that differ in one thing each."""
    for name, data in _files():
        yield Case(name, "webp", data)


def _files() -> Iterator[tuple[str, bytes]]:
    scene = a_scene(150, 110)
    for quality in (0, 40, 80, 100):
        yield f"lossy-{quality}", saved(scene, "WEBP", quality=quality)
        yield f"lossy-alpha-{quality}", saved(with_alpha(scene), "WEBP", quality=quality, alpha_quality=quality)
    for method in (0, 6):
        yield f"lossless-{method}", saved(scene, "WEBP", lossless=True, method=method)
        yield f"lossless-alpha-{method}", saved(with_alpha(scene), "WEBP", lossless=True, exact=True, method=method)
    yield "lossless-palette", saved(scene.quantize(16), "WEBP", lossless=True)
    yield "lossless-grey", saved(scene.convert("L"), "WEBP", lossless=True)
    for width, height in ((1, 1), (1, 17), (7, 9), (17, 33), (400, 5)):
        yield f"lossy-{width}x{height}", saved(a_scene(width, height), "WEBP")
        yield f"lossless-{width}x{height}", saved(a_scene(width, height), "WEBP", lossless=True)
    yield from _containers()


def _containers() -> Iterator[tuple[str, bytes]]:
    """What the file says of its picture, and what the picture is."""
    layered = with_alpha(a_scene(150, 110))
    lossy, lossless = chunks_of(saved(layered, "WEBP")), chunks_of(saved(layered, "WEBP", lossless=True))
    for flag in (0, ALPHA):
        picture = {b"VP8X": header(flag, (150, 110)), b"ALPH": lossy[b"ALPH"], b"VP8 ": lossy[b"VP8 "]}
        yield f"alpha-flag-{flag}", a_file(picture)
        yield f"alpha-flag-{flag}-opaque", a_file({b"VP8X": header(flag, (150, 110)), b"VP8 ": lossy[b"VP8 "]})
    yield "alpha-flag-lossless", a_file({b"VP8X": header(ALPHA, (150, 110)), b"VP8L": lossless[b"VP8L"]})
    exact = chunks_of(saved(layered, "WEBP", lossless=True, exact=True))[b"VP8L"]
    yield "alpha-unsaid", a_file({b"VP8X": header(0, (150, 110)), b"VP8L": exact})
    turned = [layered.rotate(180)]
    played = saved(layered, "WEBP", lossless=True, exact=True, save_all=True, append_images=turned)
    yield "alpha-unsaid-animated", played[:20] + bytes([played[20] & ~ALPHA]) + played[21:]
    yield "unknown-chunk", a_file({b"VP8X": header(0, (150, 110)), b"zzzz": b"abc", b"VP8 ": lossy[b"VP8 "]})
    yield "behind-the-end", saved(layered, "WEBP") + bytes(500)
