"""Each frame of an animation is drawn as a browser draws it, and shown for as long."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
from PIL import Image as pil

from moderation.media.formats.apng import Apng
from moderation.media.formats.canvas import Frame, TornError
from moderation.media.formats.gif import Gif
from tests.browser.browser import Browser
from tests.browser.corpus.case import Case
from tests.browser.parity import MEAN, difference
from tests.browser.writing.gif import a_frame, a_gif
from tests.browser.writing.png import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, chunk, header, palette

FILES = 25
FRAMES = 5
SCREEN = 20, 60  # pixels, the least and the most of a side
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


def _box(chance: Random, size: tuple[int, int], *, beyond: int = 0) -> tuple[int, int, int, int]:
    """Left, top, width and height on a screen; up to so many pixels stand out of it."""
    left, top = (chance.randrange(side - 1) for side in size)
    width, height = (chance.randint(1, side - at + beyond) for side, at in zip(size, (left, top), strict=True))
    return left, top, width, height


def _cells(chance: Random, width: int, height: int, channels: int, most: int) -> np.ndarray:
    """Samples in cells of 6 x 6."""
    cells = np.array([chance.randrange(most) for _ in range((height // 6 + 1) * (width // 6 + 1) * channels)])
    cells = cells.reshape(height // 6 + 1, width // 6 + 1, channels)
    return np.kron(cells, np.ones((6, 6, 1), int))[:height, :width]


def _some_gif(chance: Random) -> bytes:
    screen, colours = (chance.randint(*SCREEN), chance.randint(*SCREEN)), chance.choice([2, 4, 16])
    frames = []
    for _ in range(FRAMES):
        left, top, width, height = _box(chance, screen, beyond=chance.choice([0, 0, 20]))
        own = chance.choice([0, 0, 8])
        indices = _cells(chance, width, height, 1, own or colours)[:, :, 0]
        frames.append(
            a_frame(
                indices,
                4,
                chance.randbytes(3 * own),
                place=(left, top),
                interlaced=chance.random() < 0.3,
                clear=chance.choice([None, 0, 1]),
                hundredths=chance.randrange(30),
                disposal=chance.randrange(8),
            )
        )
    return a_gif(screen, frames, chance.randbytes(3 * colours))


def _some_apng(chance: Random) -> bytes:
    size, colour = (chance.randint(*SCREEN), chance.randint(*SCREEN)), chance.choice(list(CHANNELS))
    chunks = [header(*size, 8, colour)]
    if colour == PALETTE:
        chunks.append(palette([tuple(chance.randbytes(3)) for _ in range(16)]))
    if colour in (GREY, RGB, PALETTE) and chance.random() < 0.5:
        chunks.append(chunk(b"tRNS", bytes(range(0, 160, 16)) if colour == PALETTE else b"\0\x11" * CHANNELS[colour]))
    chunks.append(chunk(b"acTL", struct.pack(">II", FRAMES, 0)))
    number = 0
    for index in range(FRAMES):
        left, top, width, height = _box(chance, size) if index else (0, 0, *size)
        how = chance.randrange(9), 100, chance.randrange(3), chance.randrange(2)
        chunks.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, left, top, *how)))
        scale = 1 if colour == PALETTE else 17
        rows = (_cells(chance, width, height, CHANNELS[colour], 16) * scale).astype(np.uint8)
        data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
        chunks.append(chunk(b"fdAT", struct.pack(">I", number + 1) + data) if index else chunk(b"IDAT", data))
        number += 2 if index else 1
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, chunk(b"IEND")])


def _ours(suffix: str, file: bytes) -> Iterator[Frame]:
    try:
        yield from (Gif(file, 1_000_000) if suffix == "gif" else Apng(file)).frames()
    except TornError:
        return


@pytest.mark.parametrize(("suffix", "make"), [("gif", _some_gif), ("png", _some_apng)])
def test_frames_are_those_of_a_browser(browser: Browser, suffix: str, make: object) -> None:
    compared = 0
    for seed in range(FILES):
        file = make(Random(seed))  # type: ignore[operator]
        theirs, ours = browser.frames(Case(f"{seed}", suffix, file)), list(_ours(suffix, file))
        assert [round(frame.seconds * 1_000) for frame in ours] == [round(frame.milliseconds) for frame in theirs], seed
        for number, (our, their) in enumerate(zip(ours, theirs, strict=True)):
            layered = our.picture.convert("RGBA")
            shown = pil.alpha_composite(pil.new("RGBA", layered.size, "white"), layered).convert("RGB")
            assert shown.size == their.picture.size, (seed, number)
            mean, _ = difference(shown, their.picture)
            assert mean < MEAN / 3, (seed, number)
            compared += 1
    assert compared == FILES * FRAMES
