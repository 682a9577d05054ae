"""Opens files that are cut or slightly broken, and shows what is there of them.

Pillow refuses a file for damage that browsers pass over. A file that lacks only its end mark is whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO

from PIL import Image as pil
from PIL import ImageChops

from moderation.media.formats import apng, webp
from moderation.media.formats.canvas import TornError
from moderation.media.formats.png import Marks, marks_of
from moderation.media.formats.salvage import on_white, salvaged
from moderation.media.formats.samples import eight_bits

JPEG_SCAN, JPEG_END = b"\xff\xda", b"\xff\xd9"
NOISE = bytes(range(0x10, 0xF0, 0x07)) * 4  # in place of what a cut JPEG lacks; no byte of it begins a marker


@dataclass(frozen=True, slots=True)
class Opened:
    """An image file that Pillow takes."""

    image: pil.Image  # not decoded yet
    files: tuple[bytes, ...]  # the file; of a cut one whose missing bytes were filled in, one for each filling
    sound: bool  # no picture was lost where the file was mended

    @property
    def file(self) -> bytes:
        """The file that `image` was opened from."""
        return self.files[0]


def opened(file: bytes, formats: Sequence[str]) -> Opened:
    """Opens a file, mended where it must be. Raises what Pillow raises if there is no picture in it."""
    try:
        return Opened(_open(file, formats), (file,), sound=True)
    except Exception:
        files, sound = _mended(file)
        if not files:
            raise
        return Opened(_open(files[0], formats), files, sound)


def pictures_of(file: Opened, formats: Sequence[str]) -> Iterator[pil.Image]:
    """Yields what there is of a still picture, the browser's view first. Raises TornError behind it if a part lacks."""
    if len(file.files) > 1:
        first, second = (_open(each, formats) for each in file.files)
        yield _agreed(first, second)
        raise TornError
    image, there = salvaged(partial(_open, file.file, formats))
    part = None if there is None or there.getbbox() is None else on_white(_levels(image, file.file), there)
    if there is None:
        yield image
    elif image.format == "JPEG":
        yield from _of_jpeg(file.file, part)
    else:
        if part is not None:
            yield part
        raise TornError
    if not file.sound:
        raise TornError


def _levels(image: pil.Image, file: bytes) -> pil.Image:
    return eight_bits(image, file, marks_of(file) if image.format == "PNG" else Marks())


def _open(file: bytes, formats: Sequence[str]) -> pil.Image:
    return pil.open(BytesIO(file), formats=tuple(formats))


def _mended(file: bytes) -> tuple[tuple[bytes, ...], bool]:
    if (still := apng.mended(file)) is not None:
        return (still[0],), still[1]
    if (files := webp.mended(file)) is not None:
        return tuple(files[0]), files[1]
    return (), False


def _of_jpeg(file: bytes, part: pil.Image | None) -> Iterator[pil.Image]:
    """The part that a browser shows; and all of it where the file lacks only its end mark.

    A browser leaves out the last rows of such a file, other viewers do not. A progressive file is shown as far as it
    has been refined; of one that ends in its first scan, the rows that are there.
    """
    if part is not None:
        yield part
    first, second = _ended(file)
    whole = first is not None and second is not None and ImageChops.difference(first, second).getbbox() is None
    if first is not None and (part is None or whole):
        yield first if whole or second is None or file.count(JPEG_SCAN) > 1 else _agreed(first, second)
    if not whole:
        raise TornError


def _ended(file: bytes) -> tuple[pil.Image | None, pil.Image | None]:
    """The picture of a JPEG with an end mark behind it, and with noise before that mark.

    If the two are the same, then the file lacks only its end mark. None: there is no such picture.
    """
    first = _loaded(file + JPEG_END)
    if first is not None:
        return first, _loaded(file.rstrip(b"\xff") + NOISE + JPEG_END)
    begin = file.rfind(b"\xff")  # of a marker that is cut
    while begin > 0 and file[begin + 1 : begin + 2] <= b"\0":  # data, or half a marker
        begin = file.rfind(b"\xff", 0, begin)
    return _loaded(file[: max(begin, 0)] + JPEG_END), None


def _loaded(file: bytes) -> pil.Image | None:
    try:
        image = _open(file, ["JPEG"])
        image.load()
    except Exception:  # noqa: BLE001  decoders raise any error on hostile bytes
        return None
    return image


def _agreed(first: pil.Image, second: pil.Image) -> pil.Image:
    """The rows above the first one in which the two pictures of a cut file differ."""
    for image in (first, second):
        image.load()
    differing = ImageChops.difference(first, second).getbbox()
    there = pil.new("L", first.size, 255)
    there.paste(0, (0, differing[1] if differing else first.height, *first.size))
    if there.getbbox() is None:
        raise TornError
    return on_white(first.convert("RGBA") if first.has_transparency_data else first, there)
