"""Animations as people post them, drawn from a seed: shots of people, pans, slides, stickers, screens, counters."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from random import Random

from PIL import Image as pil
from PIL import ImageDraw, ImageEnhance, ImageFont

SIZE = WIDTH, HEIGHT = 160, 120
FRAME_S = 0.07
TEXT = """nobody expects when the cat sits on monday again please wait look at this one more time wow same energy every
day good night friends"""
Frames = Iterator[tuple[pil.Image, float]]  # pictures, each with its seconds


@dataclass(frozen=True, slots=True)
class Animation:
    """Pictures, and how many seconds each is shown."""

    name: str
    pictures: Sequence[pil.Image]
    seconds: Sequence[float]

    def file(self, format: str = "GIF", **options: object) -> bytes:
        """The animation as a file, which repeats for ever."""
        first, *others = self.pictures
        file = BytesIO()
        times = [round(1_000 * seconds) for seconds in self.seconds]
        saved = {"save_all": True, "append_images": others, "duration": times, "loop": 0} | options
        first.save(file, format, **saved)
        return file.getvalue()


def ordinary(rounds: int) -> Iterator[Animation]:
    """Each kind of KINDS so many times, as often as it stands there."""
    for number in range(rounds * len(KINDS)):
        kind = KINDS[number % len(KINDS)]
        pictures, seconds = zip(*kind(Random(number)), strict=True)
        yield Animation(f"{kind.__name__.strip('_')}-{number}", pictures, seconds)


def a_photo(chance: Random, size: tuple[int, int] = SIZE) -> pil.Image:
    """A picture with coarse and fine detail, as of a place. Its levels spread by some 52, as those of photographs."""
    photo = pil.new("RGB", size)
    for cells, share in ((3, 1.0), (8, 0.45), (24, 0.3), (70, 0.15)):
        lines = max(2, cells * size[1] // size[0])
        layer = pil.frombytes("RGB", (cells, lines), chance.randbytes(3 * cells * lines))
        photo = pil.blend(photo, layer.resize(size, pil.Resampling.BICUBIC), share)
    return ImageEnhance.Contrast(photo).enhance(chance.uniform(1.4, 2.2))


@dataclass(frozen=True, slots=True)
class Person:
    """A person of some looks."""

    skin: tuple[int, ...]
    shirt: tuple[int, ...]

    def draw(self, picture: pil.Image, x: float, y: float, size: float, pose: float) -> None:
        """Draws head, body and limbs, the head's middle at (x, y). pose: -1 to 1."""
        draw, head = ImageDraw.Draw(picture), size / 4
        for side in (-1, 1):
            hand = x + side * size / 2, y + size * (0.3 - 0.5 * side * pose)
            foot = x + side * size / 5 * (1 + pose), y + size * 1.3
            draw.line([(x, y + head * 1.4), hand], fill=self.skin, width=max(2, int(size / 12)))
            draw.line([(x, y + size * 0.8), foot], fill=self.shirt, width=max(2, int(size / 9)))
        draw.rounded_rectangle([x - head * 0.9, y + head, x + head * 0.9, y + size * 0.85], head / 2, fill=self.shirt)
        draw.ellipse([x - head * 0.8, y - head, x + head * 0.8, y + head], fill=self.skin)
        for eye in (x - head / 3, x + head / 3):
            draw.ellipse([eye - 2, y - head * 0.3 - 2, eye + 2, y - head * 0.3 + 2], fill="black")
        open_by = head * (0.4 + 0.25 * abs(pose))
        draw.ellipse([x - head * 0.3, y + head * 0.3, x + head * 0.3, y + open_by], fill=(120, 20, 20))


def a_person(chance: Random) -> Person:
    return Person(*(tuple(chance.randrange(low, 230) for _ in range(3)) for low in (90, 20)))


@lru_cache
def a_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def some_words(chance: Random, count: int) -> str:
    return " ".join(chance.choice(TEXT.split()) for _ in range(count))


def write(picture: pil.Image, text: str, y: float = HEIGHT - 16, size: int = 14) -> None:
    """Writes a line in white with a dark rim, in the middle of the picture."""
    place = picture.width / 2, y
    ImageDraw.Draw(picture).text(place, text, "white", a_font(size), "mm", stroke_width=1, stroke_fill="black")


def _talk(chance: Random, count: int = 0, ground: pil.Image | None = None) -> Frames:
    ground, person = ground or a_photo(chance), a_person(chance)
    x, size, pace = chance.uniform(0.35, 0.65) * WIDTH, chance.uniform(40, 80), chance.uniform(0.2, 0.6)
    caption = some_words(chance, 4) if chance.random() < 0.5 else ""
    for number in range(count or chance.randrange(15, 50)):
        picture, turn = ground.copy(), number * pace
        place = x + size * 0.06 * math.sin(turn), HEIGHT * 0.4 + size * 0.04 * math.cos(turn * 1.7)
        person.draw(picture, *place, size, 0.4 * math.sin(turn * 2.3))
        write(picture, caption)
        yield picture, FRAME_S


def _subtitles(chance: Random) -> Frames:
    ground = a_photo(chance)
    for _ in range(chance.choice([2, 3])):
        text = some_words(chance, 5)
        for picture, seconds in _talk(Random(7), chance.randrange(10, 20), ground):
            write(picture, text, HEIGHT - 14, 12)
            yield picture, seconds


def _cuts(chance: Random) -> Frames:
    for _ in range(chance.choice([2, 2, 2, 3])):
        yield from _talk(chance, chance.randrange(10, 25))


def _grain(chance: Random) -> Frames:
    for picture, seconds in _talk(chance):
        grain = pil.frombytes("L", SIZE, chance.randbytes(WIDTH * HEIGHT)).convert("RGB")
        yield pil.blend(picture, grain, 0.15), seconds


def _dance(chance: Random) -> Frames:
    ground, person, size, pace = a_photo(chance), a_person(chance), chance.uniform(40, 60), chance.uniform(0.4, 0.8)
    for number in range(chance.randrange(12, 40)):
        picture, turn = ground.copy(), number * pace
        person.draw(picture, WIDTH / 2 + size * 0.3 * math.sin(turn), HEIGHT / 4, size, math.sin(turn * 2))
        yield picture, FRAME_S


def _walk(chance: Random) -> Frames:
    ground, person, size, count = a_photo(chance), a_person(chance), chance.uniform(20, 45), chance.randrange(15, 40)
    for number in range(count):
        picture = ground.copy()
        person.draw(picture, WIDTH * number / (count - 1), HEIGHT * 0.4, size, math.sin(number))
        yield picture, FRAME_S


def _pan(chance: Random) -> Frames:
    wide, count, span = a_photo(chance, (WIDTH * 2, HEIGHT)), chance.randrange(15, 60), chance.uniform(0.2, 0.8) * WIDTH
    for number in range(count):
        x = int(span * number / (count - 1))
        yield wide.crop((x, 0, x + WIDTH, HEIGHT)), FRAME_S


def _follow(chance: Random) -> Frames:
    person = a_person(chance)
    for number, (picture, seconds) in enumerate(_pan(chance)):
        person.draw(picture, WIDTH / 2, HEIGHT * 0.3, 45, math.sin(number * 0.8))
        yield picture, seconds


def _shake(chance: Random) -> Frames:
    large, person = a_photo(chance, (WIDTH + 8, HEIGHT + 8)), a_person(chance)
    for number in range(chance.randrange(15, 40)):
        x, y = chance.randrange(8), chance.randrange(8)
        picture = large.crop((x, y, x + WIDTH, y + HEIGHT))
        person.draw(picture, WIDTH / 2 + x, HEIGHT * 0.35 + y, 60, 0.3 * math.sin(number))
        yield picture, FRAME_S


def _zoom(chance: Random) -> Frames:
    large, person = a_photo(chance, (WIDTH * 2, HEIGHT * 2)), a_person(chance)
    count, last, sudden = chance.randrange(15, 40), chance.uniform(0.4, 0.8), chance.random() < 0.5
    for number in range(count):
        picture, share = large.copy(), number / (count - 1)
        person.draw(picture, WIDTH, HEIGHT * 0.7, 120, 0.1 * math.sin(number))
        scale = (1.0 if share < 0.5 else max(last, 1.5 - share)) if sudden else 1 - (1 - last) * share
        x, y = WIDTH * (1 - scale), HEIGHT * (1 - scale)
        yield picture.crop((int(x), int(y), int(2 * WIDTH - x), int(2 * HEIGHT - y))).resize(SIZE), FRAME_S


def _slides(chance: Random) -> Frames:
    for _ in range(chance.choice([2, 3, 3, 4, 5])):
        yield a_photo(chance), chance.choice([1, 1.5, 2, 3])


def _fade(chance: Random) -> Frames:
    first, last, count = a_photo(chance), a_photo(chance), chance.randrange(8, 20)
    yield first, 1.0
    for number in range(count):
        yield pil.blend(first, last, number / (count - 1)), FRAME_S
    yield last, 1.0


def _flash(chance: Random) -> Frames:
    photo = a_photo(chance)
    for number in range(12):
        yield pil.blend(photo, pil.new("RGB", SIZE, "white"), max(0, 1 - abs(number - 6) / 4)), FRAME_S


def _water(chance: Random) -> Frames:
    ground, lakes = a_photo(chance), [a_photo(chance, (WIDTH, 50)) for _ in range(4)]
    for number in range(16):
        picture, place = ground.copy(), number // 4
        lake = pil.blend(lakes[place], lakes[(place + 1) % 4], number % 4 / 4)
        picture.paste(pil.blend(lake, ground.crop((0, 70, WIDTH, HEIGHT)), 0.6), (0, 70))
        yield picture, FRAME_S


def _confetti(chance: Random) -> Frames:
    ground = a_photo(chance)
    bits = [(chance.random() * WIDTH, chance.random() * HEIGHT, chance.uniform(2, 6)) for _ in range(60)]
    colours = [tuple(chance.randrange(256) for _ in range(3)) for _ in bits]
    for number in range(chance.randrange(12, 30)):
        picture = ground.copy()
        for (x, y, pace), colour in zip(bits, colours, strict=True):
            top = (y + pace * number) % HEIGHT
            ImageDraw.Draw(picture).rectangle([x, top, x + 5, top + 5], fill=colour)
        write(picture, "congratulations", HEIGHT / 2, 16)
        yield picture, FRAME_S


def _sticker(chance: Random) -> Frames:
    person, pace = a_person(chance), chance.uniform(0.3, 0.7)
    for number in range(chance.randrange(8, 24)):
        picture, turn = pil.new("RGBA", SIZE), number * pace
        person.draw(picture, WIDTH / 2, HEIGHT * 0.3 + 10 * math.sin(turn), 60, math.sin(turn * 2))
        yield picture, FRAME_S


def _emoji(chance: Random) -> Frames:
    for number in range(chance.randrange(8, 20)):
        picture = pil.new("RGBA", SIZE)
        draw, height = ImageDraw.Draw(picture), 1 if number % 7 == 3 else 6
        draw.ellipse([35, 15, 125, 105], fill=(250, 210, 40))
        for x in (60, 100):
            draw.ellipse([x - 6, 52 - height, x + 6, 52 + height], fill="black")
        yield picture, 0.1


def _hues(chance: Random) -> Frames:
    size = chance.uniform(25, 40)
    for number in range(10):
        picture = pil.new("RGB", SIZE, "white")
        x, y = WIDTH / 2 + 15 * math.sin(number * 0.63), HEIGHT / 2 + 6 * math.cos(number * 0.63)
        colour = tuple(int(255 * level) for level in colorsys.hsv_to_rgb(number / 10, 0.7, 1))
        ImageDraw.Draw(picture).ellipse([x - size, y - size, x + size, y + size], fill=colour)
        yield picture, FRAME_S


def _logo(chance: Random) -> Frames:
    base, count = pil.new("RGB", SIZE, "white"), chance.choice([12, 24, 36])
    ImageDraw.Draw(base).rectangle([50, 40, 110, 80], fill=(200, 30, 30))
    write(base, "LOGO", 60, 18)
    for number in range(count):
        yield base.rotate(360 * number / count, fillcolor="white"), FRAME_S


def _spinner(chance: Random) -> Frames:
    count = chance.choice([8, 12, 24])
    for number in range(count):
        picture, begin = pil.new("RGB", SIZE, "white"), number * 360 / count
        ImageDraw.Draw(picture).arc([50, 30, 110, 90], begin, begin + 100, fill=(40, 90, 220), width=8)
        yield picture, FRAME_S


def _bars(chance: Random) -> Frames:
    levels, count = [chance.random() for _ in range(8)], chance.randrange(10, 30)
    for number in range(count):
        picture = pil.new("RGB", SIZE, "white")
        for place, level in enumerate(levels):
            top = 110 - level * 100 * number / (count - 1)
            ImageDraw.Draw(picture).rectangle([8 + place * 18, top, 20 + place * 18, 110], fill=(40, 90, 200))
        yield picture, 2.0 if number == count - 1 else FRAME_S


def _countdown(chance: Random) -> Frames:
    photo = a_photo(chance)
    for number in range(chance.choice([3, 5]), 0, -1):
        picture = photo.copy()
        write(picture, str(number), HEIGHT / 2, 70)
        yield picture, 1.0


def _neon(chance: Random) -> Frames:
    dark = ImageEnhance.Brightness(a_photo(chance)).enhance(0.3)
    lit = dark.copy()
    write(lit, "OPEN", HEIGHT / 2, 40)
    for number in range(8):
        yield (lit if number % 4 < 2 else dark), 0.25


def _page(chance: Random, lines: int) -> pil.Image:
    page = pil.new("RGB", (WIDTH, lines * 15), "white")
    for line in range(lines):
        text = some_words(chance, 5)
        ImageDraw.Draw(page).text((6, 4 + line * 15), text, fill="black", font=a_font(10))
    return page


def _typing(chance: Random) -> Frames:
    text = "\n".join(some_words(chance, 4) for _ in range(chance.randrange(2, 6)))
    for count in range(1, len(text) + 1):
        picture = pil.new("RGB", SIZE, (20, 22, 30))
        ImageDraw.Draw(picture).multiline_text((6, 6), text[:count], fill=(220, 220, 220), font=a_font(12))
        yield picture, 1.5 if count == len(text) else FRAME_S


def _scroll(chance: Random) -> Frames:
    page, count, span = _page(chance, 24), chance.randrange(20, 50), chance.uniform(0.3, 1.8) * HEIGHT
    if chance.random() < 0.5:
        page.paste(a_photo(chance, (140, 70)), (10, 120))
    for number in range(count):
        y = int(span * number / (count - 1))
        yield page.crop((0, y, WIDTH, y + HEIGHT)), FRAME_S


def _screen(chance: Random) -> Frames:
    page, count = _page(chance, 8), chance.randrange(15, 40)
    for number in range(count):
        picture, share = page.copy(), number / count
        if share > 0.6:
            ImageDraw.Draw(picture).rectangle([90, 40, 150, 90], fill=(230, 230, 240), outline="gray")
        x, y = 20 + 100 * share, 20 + 70 * math.sin(share * 3)
        ImageDraw.Draw(picture).polygon([(x, y), (x, y + 12), (x + 8, y + 9)], fill="black")
        yield picture, 0.1


# What is posted more often stands here more often.
KINDS: tuple[Callable[[Random], Frames], ...] = (
    *(_talk, _talk, _talk, _talk, _subtitles, _subtitles, _cuts, _cuts, _dance, _dance, _shake, _shake, _zoom, _zoom),
    *(_walk, _pan, _follow, _grain, _slides, _fade, _flash, _water, _confetti, _sticker, _sticker, _emoji, _hues),
    *(_logo, _spinner, _bars, _countdown, _neon, _typing, _scroll, _screen),
)
