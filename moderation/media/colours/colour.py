"""Shows pictures in the colours that a browser shows: what a file says of its colours is applied, the result is sRGB.

Chromium is the rule: which chunk or profile counts, which is ignored, and how brighter-than-white light is shown.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, reduce
from io import BytesIO

from PIL import Image as pil
from PIL import ImageChops, ImageCms, ImageFilter, ImageMath

from moderation.errors import PostError
from moderation.media.colours import icc
from moderation.media.colours.avif import of_avif
from moderation.media.colours.chunks import Said, of_bmp, of_jpeg, of_png, of_webp
from moderation.media.colours.hdr import PEAK_NITS, light_on_screen
from moderation.media.colours.spaces import (
    SRGB_TO_XYZ,
    XYZ_TO_SRGB,
    Curve,
    Matrix,
    Space,
    of_code_points,
    parametric,
    product,
    to_xyz,
)
from moderation.types import Reason

SAYS: dict[str | None, Callable[[bytes], Said]] = {
    "PNG": of_png,
    "JPEG": of_jpeg,
    "MPO": of_jpeg,
    "WEBP": of_webp,
    "BMP": of_bmp,
    "AVIF": of_avif,
}
GREYS = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")
SAMPLES = 256  # of 8 bits
SCALE = 65_535  # of light, in whole numbers
BRIGHTEST = 1 << 28  # of one product of light, so that sums of three stay within 32 bits
NEUTRAL_GAMMA = (0.95 / 2.2, 1.05 / 2.2)  # a gAMA alone that means sRGB
BAND_PIXELS = 1 << 20  # that are converted at a time: numbers of 32 bits take four times a picture's bytes
UNREADABLE = (ImageCms.PyCMSError, OSError, ValueError, TypeError)  # what ImageCms raises of a profile
GRID = 33  # points of a table of colours, for each of three channels
PROBE = 192  # pixels: the side of a sample of a picture, which says whether a profile's table may be applied quickly
QUICK_LEVELS = 12  # of 255, that a pixel of the sample may be off then. Printers' tables are smooth
CACHED_BYTES = 16 << 10  # of a profile whose tables are kept: those of cameras and screens
BLOCK = 16  # pixels: of the squares over which a difference is measured; a letter fills a good part of one
BAND_ROWS = 16 * BLOCK
VISIBLE = 32  # levels of 255, on average over a square and its three channels

Converter = Callable[[pil.Image], pil.Image]  # from the mode that it takes to RGB


@dataclass(frozen=True, slots=True)
class Colour:
    """How the samples of a file become sRGB."""

    takes: str  # mode: RGB or CMYK
    convert: Converter
    grey: Curve | None = None  # where grey stays grey: from samples to sRGB's, each 0 to 1


def colours_of(file: bytes, image: pil.Image) -> tuple[Colour | None, ...]:
    """The colours that viewers take the samples for, the browser's first. None is sRGB: the samples as they are stored.

    Viewers that know no code points go by what else the file says, and others by nothing. Raises PostError
    IMAGE_TOO_LARGE for a profile of more than 4 MiB, IMAGE_UNSUPPORTED for one that cannot be applied: the picture
    would be shown in other colours.
    """
    says = SAYS.get(image.format)
    said = says(file) if says is not None else Said()
    if said == Said():
        return (None,)
    ways = (_colour_of(said, image, code_points=True), _colour_of(said, image, code_points=False), None)
    return tuple(dict.fromkeys(ways))


def colour_of(file: bytes, image: pil.Image) -> Colour | None:
    """As a browser: the first of `colours_of`."""
    return colours_of(file, image)[0]


def _colour_of(said: Said, image: pil.Image, *, code_points: bool) -> Colour | None:
    known = code_points or image.format == "AVIF"  # whose code points were there from the beginning
    named = of_code_points(*said.code_points) if said.code_points and known else None
    if image.format == "PNG" and named is not None:
        return _of_space(named, said.peak_nits)
    if said.icc is not None:
        try:
            profile = (_small_profile if len(said.icc) <= CACHED_BYTES else icc.profile_of)(said.icc, code_points)
        except icc.UnreadableProfileError:
            raise _unreadable() from None
        if profile is not None and (profile.space or profile.table):
            return _of_profile(profile, image, said.peak_nits)
    if image.format == "PNG":
        return _of_gamma(said)
    return _of_space(named, said.peak_nits) if named is not None else None


def says_colours(file: bytes, image: pil.Image) -> bool:
    """Whether the file says something of its colours, so that other views of it may be judged."""
    says = SAYS.get(image.format)
    return says is not None and says(file) != Said()


@lru_cache(maxsize=64)
def _small_profile(data: bytes, code_points: bool) -> icc.Profile | None:
    return icc.profile_of(data, code_points)


def _of_gamma(said: Said) -> Colour | None:
    """By gAMA, with or without cHRM. sRGB or a gamma near its own is as stored; so is cHRM alone."""
    if said.srgb or said.gamma is None:
        return None
    matrix: Matrix | None = SRGB_TO_XYZ
    if said.primaries is not None:
        matrix = to_xyz((*said.primaries[2:], *said.primaries[:2]))
    elif NEUTRAL_GAMMA[0] < said.gamma < NEUTRAL_GAMMA[1]:
        return None
    if matrix is None:
        return None
    curve = parametric(1 / said.gamma)
    return _of_space(Space((curve, curve, curve), matrix), None)


def _of_profile(profile: icc.Profile, image: pil.Image, peak_nits: float | None) -> Colour | None:
    """A profile for other channels than the image's is ignored."""
    if profile.channels == icc.GREY and image.mode not in GREYS:
        return None
    if (profile.channels == icc.CMYK) != (image.mode == "CMYK"):
        return None
    if profile.space is not None:
        return _of_space(profile.space, peak_nits)
    return _of_table(profile.table, profile.channels) if profile.table is not None else None


@lru_cache(maxsize=64)
def _of_space(space: Space, peak_nits: float | None) -> Colour | None:
    if space.transfer:
        return Colour("RGB", _through(space, peak_nits or PEAK_NITS))
    mixture = product(XYZ_TO_SRGB, space.to_xyz)
    light = [[_finite(curve(level / 255)) for level in range(SAMPLES)] for curve in space.curves]
    convert = _mixed(light, mixture)
    if _changes_nothing(convert):
        return None
    if all(0 <= value <= 1 for channel in light for value in channel):  # which ImageCms does in half the time
        with suppress(struct.error, *UNREADABLE):
            convert = _transform(icc.written(light, space.to_xyz), "RGB", ImageCms.Flags.NONE)
    return Colour("RGB", convert, _grey(space.curves, mixture))


def _changes_nothing(convert: Converter) -> bool:
    """Whether no colour differs by more than a level."""
    sample = _sample()
    return max(ImageChops.difference(sample, convert(sample)).tobytes()) <= 1


@lru_cache(maxsize=1)
def _sample() -> pil.Image:
    """All greys, and colours in steps of 17 levels."""
    greys = bytes(level for level in range(SAMPLES) for _ in range(3))
    steps = range(0, SAMPLES, 17)
    colours = bytes(level for red in steps for green in steps for blue in steps for level in (red, green, blue))
    return pil.frombytes("RGB", (SAMPLES, 1 + 16), greys + colours)


def _mixed(light: Sequence[Sequence[float]], mixture: Matrix) -> Converter:
    """By tables: the light of each channel's samples, mixed, and encoded as sRGB."""
    outputs: list[list[tuple[int, list[int]]]] = []
    for weights in mixture:
        shares = [[_whole(weight * value) for value in channel] for weight, channel in zip(weights, light, strict=True)]
        used = [(index, share) for index, share in enumerate(shares) if max(map(abs, share)) > 8]  # half a level
        outputs.append(used or [(0, shares[0])])

    def convert(picture: pil.Image) -> pil.Image:
        result = pil.new("RGB", picture.size)
        rows = max(1, BAND_PIXELS // picture.width)
        for top in range(0, picture.height, rows):
            box = (0, top, picture.width, min(picture.height, top + rows))
            channels = picture.crop(box).split()
            result.paste(pil.merge("RGB", [_mixed_channel(channels, output) for output in outputs]), box)
        return result

    return convert


def _mixed_channel(channels: Sequence[pil.Image], shares: Sequence[tuple[int, list[int]]]) -> pil.Image:
    encoded = _encoded()
    if len(shares) == 1:
        index, share = shares[0]
        return channels[index].point([encoded[min(SCALE, max(0, value))] for value in share])
    light = reduce(_sum, (channels[index].point(share, "I") for index, share in shares))
    return light.point(encoded, "L")  # what is too dark or too bright takes the nearest


def _sum(left: pil.Image, right: pil.Image) -> pil.Image:
    total: pil.Image = ImageMath.lambda_eval(lambda args: args["left"] + args["right"], left=left, right=right)
    return total


def _finite(value: float) -> float:
    return 0.0 if math.isnan(value) else min(1e6, max(-1e6, value))


def _whole(light: float) -> int:
    return round(min(BRIGHTEST, max(-BRIGHTEST, light * SCALE)))


def _encode(light: float) -> float:
    """Light as a sample of sRGB, 0 to 1."""
    light = min(1.0, max(0.0, light))
    return light * 12.92 if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055


def _encode_beyond(light: float) -> float:
    """As `_encode`, and smooth beyond 0 and 1, so that a value between two points of a table comes out right."""
    size = min(3.0, abs(light))
    return math.copysign(size * 12.92 if size <= 0.0031308 else 1.055 * size ** (1 / 2.4) - 0.055, light)


@lru_cache(maxsize=1)
def _encoded() -> list[int]:
    """The level for each whole number of light."""
    return [round(255 * _encode(value / SCALE)) for value in range(SCALE + 1)]


def _grey(curves: Sequence[Curve], mixture: Matrix) -> Curve | None:
    same = curves[0] is curves[1] is curves[2]
    if not same or any(abs(sum(row) - 1) > 0.002 for row in mixture):
        return None
    return lambda sample: _encode(_finite(curves[0](sample)))


@lru_cache(maxsize=4)
def _screen_table(space: Space, peak_nits: float) -> ImageFilter.Color3DLUT:
    light = light_on_screen(space, peak_nits)

    def colour(red: float, green: float, blue: float) -> tuple[float, ...]:
        return tuple(_encode_beyond(value) for value in light((red, green, blue)))

    return ImageFilter.Color3DLUT.generate(GRID, colour)


def _through(space: Space, peak_nits: float) -> Converter:
    return lambda picture: picture.filter(_screen_table(space, peak_nits))


def _of_table(table: bytes, channels: bytes) -> Colour:
    mode = "CMYK" if channels == icc.CMYK else "RGB"
    try:
        exact = _transform(table, mode, ImageCms.Flags.NOOPTIMIZE)
    except UNREADABLE:
        raise _unreadable() from None

    def convert(picture: pil.Image) -> pil.Image:
        if picture.width * picture.height <= 4 * PROBE * PROBE:
            return exact(picture)
        quick = _transform(table, mode, ImageCms.Flags.NONE)
        probe = picture.resize((PROBE, PROBE), pil.Resampling.NEAREST)
        off = ImageChops.difference(exact(probe), quick(probe)).tobytes()
        return (quick if max(off) <= QUICK_LEVELS else exact)(picture)

    return Colour(mode, convert)


def _unreadable() -> PostError:
    return PostError(Reason.IMAGE_UNSUPPORTED, "the image's colour profile cannot be applied")


def _transform(table: bytes, mode: str, flags: ImageCms.Flags) -> Converter:
    source = ImageCms.ImageCmsProfile(BytesIO(table))
    intent = ImageCms.Intent.PERCEPTUAL
    transform = ImageCms.buildTransform(source, _srgb_profile(), mode, "RGB", intent, flags)
    return lambda picture: ImageCms.applyTransform(picture, transform) or picture  # never None: not done in place


@lru_cache(maxsize=1)
def _srgb_profile() -> ImageCms.ImageCmsProfile:
    """sRGB as a profile of version 2: LittleCMS would make black of version 4 darker than browsers do."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[8] = 2
    return ImageCms.ImageCmsProfile(BytesIO(bytes(data)))


def shown(frame: pil.Image, colour: Colour) -> pil.Image:
    """The frame as browsers show it: RGB, or RGBA with the frame's own alpha. A frame of 16 bits loses its alpha."""
    if frame.mode == "CMYK":
        return colour.convert(frame) if colour.takes == "CMYK" else frame.convert("RGB")
    if frame.mode.startswith("I;16"):
        return _of_16_bits(frame, colour)
    if frame.has_transparency_data:
        layered = frame.convert("RGBA")
        picture = colour.convert(layered.convert("RGB"))
        picture.putalpha(layered.getchannel("A"))
        return picture
    if frame.mode in ("1", "L"):
        return _of_grey(frame.convert("L"), colour)
    return colour.convert(frame.convert("RGB"))


def _of_grey(frame: pil.Image, colour: Colour) -> pil.Image:
    ramp = colour.convert(pil.frombytes("L", (SAMPLES, 1), bytes(range(SAMPLES))).convert("RGB"))
    return pil.merge("RGB", [frame.point(list(levels.tobytes())) for levels in ramp.split()])


def _of_16_bits(frame: pil.Image, colour: Colour) -> pil.Image:
    """Light that is stored as it is has its darkest levels in the lower bytes."""
    curve = colour.grey
    levels = [value >> 8 if curve is None else round(255 * curve(value / 65535)) for value in range(1 << 16)]
    picture = frame.convert("I").point(levels, "L")
    return picture.convert("RGB") if curve else _of_grey(picture, colour)


def visibly_differs(first: pil.Image, second: pil.Image) -> bool:
    """Whether two pictures of one size are another picture to a viewer: some square differs by more than VISIBLE.

    What a photograph of a wide gamut looks like with and without its profile stays below. Of transparent pictures,
    what is seen on white is compared.
    """
    for top in range(0, first.height, BAND_ROWS):  # at a time, as copies take memory
        box = (0, top, first.width, min(first.height, top + BAND_ROWS))
        squares = ImageChops.difference(_on_white(first.crop(box)), _on_white(second.crop(box))).reduce(BLOCK)
        if any(squares.convert("L", (1 / 3, 1 / 3, 1 / 3, 0)).histogram()[VISIBLE + 1 :]):
            return True
    return False


def _on_white(picture: pil.Image) -> pil.Image:
    if picture.mode == "RGBA":
        picture = pil.alpha_composite(pil.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
