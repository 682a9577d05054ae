"""Pictures of the small world: pictographs of a colour font over backgrounds, with clutter and words that mean nothing.

The font is needed where pictures are drawn, not where the checkpoint runs: Noto Color Emoji, in Debian
`fonts-noto-color-emoji`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from PIL.Image import Image as Picture

from moderation.errors import ConfigError
from moderation.training.world import CLUTTER, Thing, allowed, companion

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # the only size of its bitmaps
SHAPES = (
    (1, 1, 8),
    (4, 3, 4),
    (3, 4, 4),
    (3, 2, 2),
    (16, 9, 2),
    (9, 16, 2),
    (2, 1, 2),
    (1, 2, 2),
    (3, 1, 1),
    (1, 3, 1),
)
LETTERS = ("HELLO", "OPEN", "2026", "SUMMER", "WOW", "NEWS", "TODAY", "LOL", "PART 2", "HOME", "MONDAY", "YES", "NEW")
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture, the things in it, and the box that each fills: left, top, right, bottom in pixels."""

    picture: Picture
    things: tuple[Thing, ...]
    boxes: tuple[Box, ...]


def scene(random: Random, *, training: bool = True, things: tuple[Thing, ...] | None = None) -> Scene:
    """A picture of `things`, or of up to three drawn things. training: False takes held-out backgrounds."""
    wide, high, _ = random.choices(SHAPES, weights=[weight for _, _, weight in SHAPES])[0]
    short = random.randint(112, 260)
    scale = short / min(wide, high)
    size = round(wide * scale), round(high * scale)
    picture = random.choice(BACKGROUNDS if training else UNSEEN_BACKGROUNDS)(random, size)
    if random.random() < 0.4:
        _lines(random, picture)
    if things is None:
        things = _cast(random, training=training)
    boxes: list[Box] = []
    shown = []
    for thing in things:
        box = _put(random, picture, thing.glyph, boxes, largest=0.85 if len(things) == 1 else 0.6)
        if box:
            shown.append(thing)
            boxes.append(box)
    for _ in range(random.choices((0, 1, 2), weights=(5, 3, 1))[0]):
        _put(random, picture, random.choice(CLUTTER), boxes, largest=0.4, smallest=0.15)
    if random.random() < 0.2:
        _words(random, picture, boxes)
    return Scene(_weathered(random, picture), tuple(shown), tuple(boxes))


def _cast(random: Random, *, training: bool) -> tuple[Thing, ...]:
    things: list[Thing] = []
    for _ in range(random.choices((0, 1, 2, 3), weights=(1, 10, 6, 2))[0]):
        another = companion(random, things, training=training)
        if allowed(things, another, training=training):
            things.append(another)
    return tuple(things)


@lru_cache(maxsize=256)
def _glyph(text: str) -> Picture:
    try:
        font = ImageFont.truetype(FONT, FONT_SIZE)
    except OSError:
        raise ConfigError(f"{FONT}: pictures are drawn with it; install fonts-noto-color-emoji") from None
    tile = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(tile).text((10, 10), text, font=font, embedded_color=True)
    return tile.crop(tile.getbbox())


def _put(
    random: Random, picture: Picture, glyph: str, taken: list[Box], *, largest: float, smallest: float = 0.42
) -> Box | None:
    """Pastes a pictograph where it covers others least. Returns None when there is no space."""
    tile = _glyph(glyph)
    side = min(picture.size) * random.uniform(smallest, largest)
    scale = side / max(tile.size)
    tile = tile.resize(
        (max(4, round(tile.width * scale)), max(4, round(tile.height * scale))), Image.Resampling.BILINEAR
    )
    if random.random() < 0.5:
        tile = tile.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    tile = tile.rotate(random.gauss(0, 15), Image.Resampling.BILINEAR, expand=True)
    best: tuple[float, Box] | None = None
    for _ in range(12):
        left = random.uniform(0, max(0, picture.width - tile.width))
        top = random.uniform(0, max(0, picture.height - tile.height))
        box = (left, top, left + tile.width, top + tile.height)
        covered = max((overlap(box, other) for other in taken), default=0.0)
        if best is None or covered < best[0]:
            best = covered, box
        if covered < 0.05:
            break
    if best is None or best[0] > 0.3:
        return None
    box = best[1]
    picture.paste(tile, (round(box[0]), round(box[1])), tile)
    return box


def overlap(box: Box, other: Box) -> float:
    """The share of the smaller box's area that both boxes cover."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((each[2] - each[0]) * (each[3] - each[1]) for each in (box, other))
    return max(0.0, width) * max(0.0, height) / smaller


def _words(random: Random, picture: Picture, boxes: list[Box]) -> None:
    """Writes words above or below the things, or across them when there is no space."""
    font = ImageFont.load_default(size=max(12, min(picture.size) * random.uniform(0.09, 0.16)))
    fill = random.choice(("white", "black", "red", "navy"))
    places = [(random.uniform(0.25, 0.75) * picture.width, part * picture.height) for part in (0.08, 0.5, 0.92)]
    x, y = min(places, key=lambda place: sum(box[1] < place[1] < box[3] for box in boxes))
    edge = "black" if fill == "white" else "white"
    ImageDraw.Draw(picture).text(
        (x, y), random.choice(LETTERS), font=font, fill=fill, anchor="mm", stroke_width=1, stroke_fill=edge
    )


def _lines(random: Random, picture: Picture) -> None:
    draw = ImageDraw.Draw(picture)
    for _ in range(random.randint(1, 6)):
        points = [(random.uniform(0, picture.width), random.uniform(0, picture.height)) for _ in range(2)]
        if random.random() < 0.5:
            draw.line(points, fill=_colour(random), width=random.randint(1, 5))
        else:
            (x, y), radius = points[0], random.uniform(0.02, 0.1) * min(picture.size)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(random))


def _weathered(random: Random, picture: Picture) -> Picture:
    """The picture with a camera's changes of light and blur."""
    if random.random() < 0.5:
        picture = picture.point(
            [min(255, round(value * factor)) for factor in [random.uniform(0.7, 1.2)] for value in range(256)] * 3
        )
    if random.random() < 0.15:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.2)))
    return picture


def _colour(random: Random) -> Colour:
    return random.randrange(256), random.randrange(256), random.randrange(256)


# Backgrounds


def _plain(random: Random, size: tuple[int, int]) -> Picture:
    return Image.new("RGB", size, random.choice((_colour(random), (255, 255, 255), (0, 0, 0))))


def _fade(random: Random, size: tuple[int, int]) -> Picture:
    ramp = random.choice((Image.linear_gradient, Image.radial_gradient))("L").rotate(random.choice((0, 90, 180, 270)))
    return Image.composite(
        Image.new("RGB", size, _colour(random)), Image.new("RGB", size, _colour(random)), ramp.resize(size)
    )


def _stripes(random: Random, size: tuple[int, int]) -> Picture:
    picture = Image.new("RGB", size, _colour(random))
    draw = ImageDraw.Draw(picture)
    step, slant, colour = random.randint(8, 40), random.randint(-60, 60), _colour(random)
    for x in range(-60, size[0] + 60, 2 * step):
        draw.line((x, 0, x + slant, size[1]), fill=colour, width=step)
    return picture


def _grain(random: Random, size: tuple[int, int]) -> Picture:
    noise = np.random.default_rng(random.randrange(2**32))
    coarse = random.choice((1, 4, 16))
    shape = (max(1, size[1] // coarse), max(1, size[0] // coarse), 3)
    values = np.clip(noise.normal(_colour(random), random.uniform(8, 40), shape), 0, 255).astype(np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def _landscape(random: Random, size: tuple[int, int]) -> Picture:
    picture = _fade(random, size)
    horizon = random.uniform(0.4, 0.8) * size[1]
    ImageDraw.Draw(picture).rectangle((0, horizon, *size), fill=_colour(random))
    return picture


def _interior(random: Random, size: tuple[int, int]) -> Picture:
    picture = Image.new("RGB", size, _colour(random))
    draw = ImageDraw.Draw(picture)
    for _ in range(random.randint(2, 5)):
        left, right = sorted(random.uniform(0, size[0]) for _ in range(2))
        top, bottom = sorted(random.uniform(0, size[1]) for _ in range(2))
        draw.rectangle((left, top, right, bottom), fill=_colour(random), outline=_colour(random))
    return picture


def _tiles(random: Random, size: tuple[int, int]) -> Picture:
    step, colours = random.randint(12, 40), (_colour(random), _colour(random))
    picture = Image.new("RGB", size, colours[0])
    draw = ImageDraw.Draw(picture)
    for row in range(size[1] // step + 1):
        for col in range(row % 2, size[0] // step + 1, 2):
            draw.rectangle((col * step, row * step, col * step + step, row * step + step), fill=colours[1])
    return picture


def _waves(random: Random, size: tuple[int, int]) -> Picture:
    x, y = np.meshgrid(np.linspace(0, size[0] / 100, size[0]), np.linspace(0, size[1] / 100, size[1]))
    turn = random.uniform(0, math.pi)
    wave = np.sin(
        random.uniform(2, 9) * (x * math.cos(turn) + y * math.sin(turn)) + np.sin(3 * y) * random.uniform(0, 2)
    )
    mask = Image.fromarray(((wave + 1) * 127).astype(np.uint8))
    return Image.composite(Image.new("RGB", size, _colour(random)), Image.new("RGB", size, _colour(random)), mask)


Background = Callable[[Random, tuple[int, int]], Picture]
BACKGROUNDS: tuple[Background, ...] = (_plain, _fade, _stripes, _grain, _landscape, _interior)
UNSEEN_BACKGROUNDS: tuple[Background, ...] = (_tiles, _waves)
