"""JPEG: colour models, subsampling, scans, and what may stand before and behind the picture."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL import Image as pil

from tests.browser.corpus.case import Case
from tests.browser.writing.jpeg import SOF1, in_scans, with_gain_map
from tests.browser.writing.pictures import a_scene
from tests.browser.writing.saved import saved, segment, with_segments

ADOBE = b"Adobe\0\x64\0\0\0\0"  # before the byte that names the colour model

NOT_SHOWN = ("twelve-bits", "lossless")


def cases() -> Iterator[Case]:
    """Files that differ in one thing each."""
    for name, data in _files():
        yield Case(name, "jpg", data, shown=name not in NOT_SHOWN)


def _files() -> Iterator[tuple[str, bytes]]:
    scene = a_scene(150, 110)
    for subsampling in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
        for progressive in (False, True):
            name = f"{subsampling.replace(':', '')}{'-progressive' if progressive else ''}"
            yield name, saved(scene, "JPEG", subsampling=subsampling, progressive=progressive, quality=85)
    for width, height in ((1, 1), (1, 17), (7, 9), (8, 8), (16, 16), (17, 33), (400, 5)):
        yield f"size-{width}x{height}", saved(a_scene(width, height), "JPEG")
    for quality in (1, 10, 50, 100):
        yield f"quality-{quality}", saved(scene, "JPEG", quality=quality)
    yield "restart-blocks", saved(scene, "JPEG", restart_marker_blocks=2)
    yield "restart-rows", saved(scene, "JPEG", restart_marker_rows=1, progressive=True)
    yield "optimised", saved(scene, "JPEG", optimize=True)
    yield "grey", saved(scene.convert("L"), "JPEG")
    yield "grey-progressive", saved(scene.convert("L"), "JPEG", progressive=True)
    yield "rgb", saved(scene, "JPEG", keep_rgb=True)
    yield from _four_colours()
    plain = saved(scene, "JPEG")
    yield "comment", with_segments(plain, segment(0xFE, b"a comment"))
    yield "no-jfif", plain[:2] + plain[20:]
    yield "fill-bytes", plain[:2] + b"\xff\xff\xff" + plain[2:]
    yield "behind-the-end", plain + bytes(1_000)
    yield "another-behind-the-end", plain + saved(scene.rotate(180), "JPEG")
    yield "thumbnail", with_segments(plain, segment(0xE0, b"JFXX\0\x10" + saved(scene.resize((15, 11)), "JPEG")))
    for factors in (
        ((1, 1), (1, 1), (1, 1)),
        ((2, 2), (1, 1), (1, 1)),
        ((1, 2), (1, 1), (1, 1)),
        ((2, 2), (2, 1), (1, 2)),
        ((2, 2), (1, 2), (1, 1)),
        ((4, 2), (1, 1), (2, 1)),
        ((1, 1), (2, 2), (2, 2)),
        ((4, 4), (1, 1), (1, 1)),
        ((1, 4), (1, 1), (1, 2)),
        ((2, 2),),
    ):
        label = "-".join(f"{across}x{down}" for across, down in factors)
        yield f"scans-{label}", in_scans(scene, factors)
    yield "scans-extended", in_scans(scene, ((2, 1), (1, 1), (1, 1)), sof=SOF1)
    yield "named-by-letters", in_scans(scene, ((1, 1), (1, 1), (1, 1)), identifiers=b"RGB")
    yield from _pictures_behind(scene)
    yield from _odd_codings(scene)
    yield "density", saved(scene, "JPEG", dpi=(300, 72))


def _pictures_behind(scene: pil.Image) -> Iterator[tuple[str, bytes]]:
    """Of several pictures in one file, viewers show the first."""
    other = scene.rotate(180)
    yield "mpo", saved(scene, "MPO", save_all=True, append_images=[other])
    yield "mpo-three", saved(scene, "MPO", save_all=True, append_images=[other, other.resize((40, 30))])
    gain_map = saved(pil.linear_gradient("L").resize((75, 55)), "JPEG")
    yield "ultra-hdr", with_gain_map(saved(scene, "JPEG", quality=90), gain_map)
    yield "ultra-hdr-grey-base", with_gain_map(saved(scene.convert("L"), "JPEG", quality=90), gain_map)


def _odd_codings(scene: pil.Image) -> Iterator[tuple[str, bytes]]:
    """Any bits are a picture to arithmetic coding: the decoders must agree on which."""
    plain = saved(scene.convert("L"), "JPEG")
    frame = plain.index(b"\xff\xc0")
    yield "arithmetic", plain[:frame] + b"\xff\xc9" + plain[frame + 2 :]
    yield "extended", plain[:frame] + b"\xff\xc1" + plain[frame + 2 :]
    yield "twelve-bits", plain[:frame] + b"\xff\xc1" + plain[frame + 2 : frame + 4] + b"\x0c" + plain[frame + 5 :]
    yield "lossless", plain[:frame] + b"\xff\xc3" + plain[frame + 2 :]


def _four_colours() -> Iterator[tuple[str, bytes]]:
    """CMYK as Adobe writes it, inverted; as others do; and as YCCK."""
    inks = a_scene(150, 110).convert("CMYK")
    adobe = saved(inks, "JPEG", quality=90)
    mark = adobe.index(b"Adobe")
    yield "cmyk-adobe", adobe
    yield "ycck", adobe[: mark + len(ADOBE)] + b"\x02" + adobe[mark + len(ADOBE) + 1 :]
    start = mark - 4
    (length,) = struct.unpack(">H", adobe[start + 2 : start + 4])
    yield "cmyk-no-mark", adobe[:start] + adobe[start + 2 + length :]
    for model in (0, 1, 2):
        plain = saved(a_scene(150, 110), "JPEG")
        yield f"adobe-mark-{model}", with_segments(plain[:2] + plain[20:], segment(0xEE, ADOBE + bytes([model])))
        yield f"jfif-and-adobe-mark-{model}", with_segments(plain, segment(0xEE, ADOBE + bytes([model])))
