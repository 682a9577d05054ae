"""What a model is shown of the same post stays the same, or PREPARATION is raised: certificates are void then.

Each part of PREPARATION has posts whose preparation it names. Where a digest differs, what models see of some posts has
changed. If that is meant, raise the number of the part in `moderation/preparation.py`, and write the new digest here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from random import Random

import pytest
from PIL import Image as pil

from moderation import normal_form
from moderation.errors import PostError
from moderation.media.decoding import decode
from moderation.media.text import text_of
from moderation.models.shared import user_text
from moderation.models.spread import kept, spread
from moderation.preparation import PREPARATION
from moderation.settings import MediaSettings, ModelSettings
from moderation.types import Image, Post
from tests.support import coloured, icc_profiles
from tests.support.builders import a_file

LIMITS = MediaSettings()
WIDE = ((0.62, 0.32, 0.05), (0.19, 0.68, 0.07), (0.15, 0.06, 0.78))  # primaries that are not sRGB's


def shown(file: bytes) -> Iterator[bytes]:
    """Each picture that a model is shown of a file: its size and its pixels."""
    views = decode(file, LIMITS)
    while True:
        try:
            picture = next(views, None)
        except PostError as error:
            yield f"{error.reason} {error.problem.detail}".encode()
            return
        if picture is None:
            return
        yield f"{picture.mode} {picture.size}".encode()
        yield picture.tobytes()


def with_chunks(*chunks: bytes) -> bytes:
    """The chart as a PNG with these chunks behind its header."""
    file = a_file(coloured.a_chart(48))
    return file[:33] + b"".join(chunks) + file[33:]


def colours() -> Iterator[bytes]:
    """Files that say something of their colours."""
    for chunks in (
        (),
        (coloured.gama(45_455),),
        (coloured.gama(100_000),),
        (coloured.gama(45_455), coloured.chrm(coloured.EXCHANGED_XY)),
        (coloured.srgb(),),
        (coloured.cicp(12, 13),),
        (coloured.cicp(9, 16),),
        (coloured.iccp(icc_profiles.rgb(WIDE)),),
        (coloured.iccp(icc_profiles.inverted_lut()),),
    ):
        yield from shown(with_chunks(*chunks))
    chart = coloured.a_chart(48)
    for mode in ("1", "L", "P", "I;16", "LA"):
        yield from shown(a_file(chart.convert("L").convert(mode) if mode in ("I;16", "LA") else chart.convert(mode)))


def noise(chance: Random, side: int = 40) -> pil.Image:
    """A picture that is like no other of the same chance."""
    return pil.frombytes("RGB", (side, side), chance.randbytes(3 * side * side))


def indexed(chance: Random, side: int = 40) -> pil.Image:
    """The same with a palette, so that nothing chooses colours when it is written as a GIF."""
    picture = pil.frombytes("P", (side, side), bytes(level % 64 for level in chance.randbytes(side * side)))
    picture.putpalette(chance.randbytes(3 * 64))
    return picture


def frames() -> Iterator[bytes]:
    """Animations: more frames than are judged, some alike, in three formats without loss."""
    chance = Random(20)
    different = [noise(chance) for _ in range(LIMITS.max_frames + 4)]
    alike = [different[0], different[0].point([min(255, level + 2) for level in range(256)] * 3), *different[1:3]]
    for pictures in (different, alike):
        yield from shown(animation(pictures, "PNG"))
        yield from shown(animation(pictures, "WEBP", lossless=True))
    yield from shown(animation([indexed(chance) for _ in different], "GIF", optimize=False))


def animation(pictures: Sequence[pil.Image], format: str, **options: bool) -> bytes:
    first, *others = pictures
    stream = BytesIO()
    first.save(stream, format, save_all=True, append_images=others, duration=100, **options)
    return stream.getvalue()


def views() -> Iterator[bytes]:
    """What is seen of one frame: on white and on black, turned, with a margin, as large as it is."""
    picture = noise(Random(21))
    clear = picture.copy()
    clear.putalpha(pil.linear_gradient("L").resize(clear.size))
    yield from shown(a_file(clear))
    yield from shown(a_file(clear, "WEBP", lossless=True, exact=True))
    for turn in range(1, 9):
        exif = pil.Exif()
        exif[0x0112] = turn
        yield from shown(a_file(picture.resize((40, 24)), exif=exif))
    for size in ((900, 6), (6, 900), (1, 1), (1700, 900)):
        yield from shown(a_file(pil.linear_gradient("L").resize(size).convert("RGB")))
    yield from shown(a_file(picture, "BMP"))


TEXTS = (
    "An ordinary text, with m² of ground, a № 5 and an e-mail to a.b@example.com.",
    "f r e e  m o n e y, fr\u200bee m\u200bon\u200bey, ｆｒｅｅ ｍｏｎｅｙ",
    "сһеар рills, 𝓬𝓱𝓮𝓪𝓹 pills, ch3ap p1lls, c̷h̷e̷a̷p̷ pills",
    "🅵🆁🅴🅴 🇫🇷🇪🇪 \u202egnihtyna\u202c",
    "Ganz gewöhnlicher Text. Обычный текст. 日本語の文です。 ＮＨＫ ｶﾀｶﾅ",
)


def texts() -> Iterator[bytes]:
    """Disguises, and what is no disguise."""
    for text in TEXTS:
        yield normal_form.normal_form(text).encode()
        yield normal_form.to_judge(f"{'plain words ' * 400}{text}{' plain words' * 400}").encode()


def windows() -> Iterator[bytes]:
    """What is judged of long texts and of many pictures, and how alternative texts join the text."""
    for count in (1, 2, 7, 40, 333):
        for most in (1, 2, 3, 16):
            yield repr((list(spread(count, most)), kept(count, 3, most), kept(2, count, most))).encode()
    for size, overlap in ((10, 0), (10, 3), (64, 16)):
        yield repr(list(user_text.cut(list(range(200)), size, overlap))).encode()
    for length in (5, 5_000, 200_000):
        stretches = user_text.UserText(TEXTS[4] * (length // 60 + 1), lambda text: [*text.encode()], ModelSettings())
        yield repr([stretches.some(room, 4) for room in (8, 400)]).encode()
    post = Post("1", "A text", (Image(b"", alt="an alternative"), Image(b"", alt=" "), Image(b"", alt="a second")))
    long = "".join(f"{number} words " for number in range(LIMITS.max_text_chars // 8))
    for each in (post, Post("2", long), Post("3", long, post.images)):
        text, problems = text_of(each, LIMITS)
        yield text.encode()
        yield repr(problems).encode()


PARTS: dict[str, tuple[Callable[[], Iterator[bytes]], str]] = {
    "colours 1": (colours, "64d43f3803e146e4"),
    "frames 1": (frames, "f0586870d2636b99"),
    "views 1": (views, "65216647a8b0bdd0"),
    "normal forms 1": (texts, "19355a981471a250"),
    "windows 1": (windows, "b257536b6a7a240c"),
}


def digest(pieces: Iterator[bytes]) -> str:
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(len(piece).to_bytes(8, "big") + piece)
    return whole.hexdigest()[:16]


@pytest.mark.parametrize("part", PARTS)
def test_what_models_are_shown_is_what_preparation_names(part: str) -> None:
    prepare, known = PARTS[part]
    name, _, number = part.rpartition(" ")
    found = digest(prepare())
    assert found == known, (
        f"models are shown other {name} of the same posts. If that is meant, raise PREPARATION "
        f"(moderation/preparation.py) to `{name} {int(number) + 1}`: certificates are void then. Then write {found}"
    )


def test_each_part_of_preparation_is_looked_at() -> None:
    assert ", ".join(PARTS) == PREPARATION


def test_a_change_of_preparation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One level of one pixel, one letter of a normal form, one frame more."""
    prepare, known = PARTS["normal forms 1"]
    monkeypatch.setattr(normal_form, "CONTEXT", normal_form.CONTEXT + 1)
    assert digest(prepare()) != known
    first = list(shown(a_file(noise(Random(1)))))
    other = noise(Random(1))
    red, green, blue = other.getpixel((3, 3))  # type: ignore[misc]
    other.putpixel((3, 3), (red ^ 1, green, blue))
    assert list(shown(a_file(other))) != first
