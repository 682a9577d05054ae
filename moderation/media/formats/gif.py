"""Reads GIF files as browsers do: each image is drawn onto a canvas, and damage ends the file where it begins."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image as pil
from PIL import ImageChops

from moderation.media.formats.canvas import Box, Canvas, Disposal, Frame, TornError

MARKS = (b"GIF87a", b"GIF89a")
HEADER = 13  # bytes
TRAILER, EXTENSION, IMAGE = 0x3B, 0x21, 0x2C
CONTROL = b"\x21\xf9\x04"  # an extension with the time and the transparent colour of the image behind it
LOOPS = (b"\x21\xff\x0bNETSCAPE2.0", b"\x21\xff\x0bANIMEXTS1.0")
# By the number in the file. Old files say 4 for PREVIOUS.
DISPOSALS = {2: Disposal.CLEAR, 3: Disposal.PREVIOUS, 4: Disposal.PREVIOUS}


@dataclass(frozen=True, slots=True)
class _Control:
    disposal: Disposal = Disposal.KEEP
    seconds: float = 0.0
    transparent: int | None = None  # an index of the palette


@dataclass(frozen=True, slots=True)
class _Image:
    """One image of the file: where it lies on the canvas, and where its data are."""

    box: Box
    palette: bytes
    interlaced: bool
    bits: int  # of the first codes
    data: bytes  # in blocks
    whole: bool  # the data have an end
    control: _Control


class Gif:
    """The frames of a GIF file. The canvas is as large as the screen and the first image together."""

    def __init__(self, file: bytes, most: int) -> None:
        """`most`: pixels of the largest image that is decoded. Raises TornError if the file has no image."""
        self._file, self._most = file, most
        if file[:6] not in MARKS or len(file) < HEADER:
            raise TornError
        width, height, flags = struct.unpack_from("<HHB", file, 6)
        self._palette = file[HEADER : HEADER + _palette_size(flags)]
        first = next(self._images(), None)
        if first is None:
            raise TornError
        self.size = max(width, first.box[2]), max(height, first.box[3])
        self.loops = any(mark in file for mark in LOOPS)

    def frames(self) -> Iterator[Frame]:
        """Decodes the frames in their order. Raises TornError where the file is broken or cut."""
        canvas = Canvas(self.size)
        for image in self._images():
            size = image.box[2] - image.box[0], image.box[3] - image.box[1]
            pixels = size[0] * size[1]
            if pixels > self._most:
                raise TornError
            whole = image.whole
            if pixels:
                colours, mask, decoded = self._decoded(image, size)
                whole = whole and decoded
                canvas.paste(colours, image.box, mask, image.control.disposal)
            yield Frame(canvas.shown(), image.control.seconds, pixels + self.size[0] * self.size[1])
            if not whole:
                raise TornError
            canvas.dispose()

    def _images(self) -> Iterator[_Image]:
        """The images of the file. Raises TornError where it is broken. A file that lacks only its end mark is whole."""
        file, place, control = self._file, HEADER + len(self._palette), _Control()
        while place < len(file) and file[place] != TRAILER:
            if file[place] == EXTENSION:
                if file.startswith(CONTROL, place) and place + 7 < len(file):
                    control = _control(file, place + 3)
                data, whole = self._data(place + 2)
                place += 2 + len(data)
            elif file[place] == IMAGE and place + 10 < len(file):
                left, top, width, height, flags = struct.unpack_from("<HHHHB", file, place + 1)
                place += 10
                palette = file[place : place + _palette_size(flags)]
                bits = place + len(palette)
                data, whole = self._data(bits + 1)
                place = bits + 1 + len(data)
                if len(data) < 2:
                    raise TornError
                box = (left, top, left + width, top + height)
                yield _Image(box, palette or self._palette, bool(flags & 64), file[bits], data, whole, control)
                control = _Control()
            else:
                raise TornError
            if not whole:
                raise TornError

    def _data(self, begin: int) -> tuple[bytes, bool]:
        """The blocks that begin here, and whether the file goes on to their end. The last block may be cut."""
        file, place = self._file, begin
        while place < len(file):
            behind = place + 1 + file[place]
            if behind == place + 1:
                return file[begin:behind], True
            if behind > len(file):
                return file[begin:place] + bytes([len(file) - place - 1]) + file[place + 1 :], False
            place = behind
        return file[begin:], False

    def _decoded(self, image: _Image, size: tuple[int, int]) -> tuple[pil.Image, pil.Image | None, bool]:
        """The colours of an image, where it is opaque (None: everywhere), and whether all of it is there."""
        indices, whole = self._indices(image, size, 0)
        there = None
        if not whole:
            others, _ = self._indices(image, size, 255)
            there = ImageChops.difference(indices, others).point([255] + 255 * [0])
            if there.getbbox() is None:
                raise TornError
            if image.interlaced:
                _fill(indices, there)
        transparent = image.control.transparent
        mask = there
        if transparent is not None:
            mask = indices.point([0 if index == transparent else 255 for index in range(256)])
            mask = mask if there is None else ImageChops.darker(mask, there)
        coloured = pil.frombytes("P", size, indices.tobytes())
        coloured.putpalette(image.palette + bytes(768 - len(image.palette)))
        return coloured.convert("RGB"), mask, whole

    def _indices(self, image: _Image, size: tuple[int, int], ground: int) -> tuple[pil.Image, bool]:
        """The palette index of each pixel, on a ground for those that are missing, and whether none is."""
        indices = pil.new("L", size, ground)
        try:
            indices.frombytes(image.data, "gif", image.bits, image.interlaced, -1)
        except (ValueError, OSError):
            return indices, False
        return indices, True


def _fill(indices: pil.Image, there: pil.Image) -> None:
    """Repeats the rows of an interlaced image that is cut, as browsers do: each down to the next one that is there."""
    for row in range(indices.height):
        line = (0, row, indices.width, row + 1)
        missing = ImageChops.invert(there.crop(line))
        above = (row - row % step for step in (2, 4, 8))
        for source in above if missing.getbbox() else ():
            other = (0, source, indices.width, source + 1)
            if source < row and there.crop(other).getextrema() == (255, 255):
                indices.paste(indices.crop(other), line, missing)
                there.paste(255, line)
                break


def _palette_size(flags: int) -> int:
    """Bytes of the palette behind these flags."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _control(file: bytes, place: int) -> _Control:
    flags, hundredths, transparent = struct.unpack_from("<BHB", file, place)
    disposal = DISPOSALS.get(flags >> 2 & 7, Disposal.KEEP)
    return _Control(disposal, hundredths / 100, transparent if flags & 1 else None)
