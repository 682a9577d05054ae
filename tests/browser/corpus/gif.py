"""GIF: still pictures with every way of placing a frame. Animations are in `frames`."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from tests.browser.corpus.case import Case
from tests.browser.writing.gif import a_frame, a_gif
from tests.browser.writing.pictures import a_scene


def cases() -> Iterator[Case]:
    """Files that differ in one thing each."""
    for name, data in _files():
        yield Case(name, "gif", data)


def _files() -> Iterator[tuple[str, bytes]]:
    for bits in range(1, 9):
        picture = a_scene(90, 70).quantize(1 << bits)
        indices = np.asarray(picture)
        flat = (picture.getpalette() or [])[: 3 << bits]
        colours = bytes(flat).ljust(3 << bits, b"\0")
        for interlaced in (False, True):
            label = "-interlaced" if interlaced else ""
            frame = a_frame(indices, bits, interlaced=interlaced)
            yield f"bits-{bits}{label}", a_gif((90, 70), [frame], colours)
            yield f"bits-{bits}{label}-local", a_gif((90, 70), [a_frame(indices, bits, colours, interlaced=interlaced)])
        clear = a_frame(indices, bits, clear=int(indices[5, 5]))
        yield f"bits-{bits}-clear", a_gif((90, 70), [clear], colours)
    indices = np.asarray(a_scene(90, 70).quantize(16))
    colours = bytes((a_scene(90, 70).quantize(16).getpalette() or [])[:48])
    for name, screen, place in (
        ("larger-screen", (130, 100), (0, 0)),
        ("offset", (130, 100), (25, 20)),
        ("smaller-screen", (50, 40), (0, 0)),
        ("beyond-the-screen", (90, 70), (30, 20)),
        ("no-screen", (0, 0), (0, 0)),
        ("outside-the-screen", (40, 40), (60, 60)),
    ):
        for background in (0, 3):
            data = a_gif(screen, [a_frame(indices, 4, place=place)], colours, background=background)
            yield f"{name}-{background}", data
    yield "local-beats-global", a_gif((90, 70), [a_frame(indices, 4, colours)], bytes(48))
    yield "no-palette", a_gif((90, 70), [a_frame(indices, 4)])
    yield "short-palette", a_gif((90, 70), [a_frame(indices, 4)], colours[:12])
    yield "clear-beyond-the-palette", a_gif((90, 70), [a_frame(indices, 4, clear=200)], colours)
    yield "old-version", b"GIF87a" + a_gif((90, 70), [a_frame(indices, 4)], colours)[6:]
    yield "aspect", a_gif((90, 70), [a_frame(indices, 4)], colours, aspect=200)
    comment = b"\x21\xfe\x05hello\0"
    text = b"\x21\x01\x0c" + struct.pack("<HHHHBBBB", 0, 0, 40, 20, 8, 8, 1, 0) + b"\x02hi\0"
    yield "comment", a_gif((90, 70), [comment + a_frame(indices, 4)], colours)
    yield "plain-text", a_gif((90, 70), [text + a_frame(indices, 4)], colours)
    yield "behind-the-end", a_gif((90, 70), [a_frame(indices, 4)], colours) + bytes(100)
