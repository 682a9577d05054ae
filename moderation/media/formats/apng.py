"""Makes PNG files that every decoder takes, of the chunks that browsers read; and the frames of animated ones.

Browsers leave out chunks that a picture does not need and that are broken, where Pillow refuses the file. Of an
animation, they show the frames before the first one that is out of order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

from PIL import Image as pil
from PIL import ImageChops

from moderation.media.formats.canvas import Box, Canvas, Disposal, Frame, TornError
from moderation.media.formats.png import MARK, Chunk, chunks, marks_of, packed
from moderation.media.formats.salvage import on_white, salvaged
from moderation.media.formats.samples import eight_bits

DISPOSALS = {1: Disposal.CLEAR, 2: Disposal.PREVIOUS}
LEAST_EXIF = 8  # bytes of its header


@dataclass(frozen=True, slots=True)
class _Control:
    """What a chunk says of the frame behind it."""

    box: Box
    seconds: float
    disposal: Disposal
    over: bool  # laid over the canvas, and not in its place


def mended(file: bytes) -> tuple[bytes, bool] | None:
    """The still picture of a PNG file without the chunks that are broken, and whether it needs none of them.

    None: the file is no PNG, or has no picture.
    """
    if not file.startswith(MARK):
        return None
    kept: list[bytes] = []
    data: list[memoryview] = []
    colours, whole, ended = 0, True, False
    for chunk in chunks(file):
        if chunk.kind == b"IDAT":
            whole = whole and not ended
            data.append(chunk.data)
            continue
        ended = bool(data)  # a browser wants the data in one piece
        needed = chunk.kind == b"PLTE" or (chunk.kind == b"IHDR" and not kept and len(chunk.data) == 13)
        if needed:
            whole = whole and chunk.sound
            colours = chunk.data[9] if chunk.kind == b"IHDR" else colours
        if needed or _is_sound(chunk, colours):
            kept.append(chunk.packed)
    if not data or not kept:
        return None
    return b"".join((MARK, *kept, packed(b"IDAT", *data), packed(b"IEND"))), whole


def _is_sound(chunk: Chunk, colours: int) -> bool:
    """Whether decoders take a chunk that a picture does not need. Of those, only alpha and a turn are shown."""
    if not (chunk.whole and chunk.sound):
        return False
    if chunk.kind == b"tRNS":
        return len(chunk.data) >= {0: 2, 2: 6}.get(colours, 1)
    return chunk.kind == b"eXIf" and len(chunk.data) >= LEAST_EXIF


class Apng:
    """The frames of an animated PNG file. Raises TornError if the file shows one picture."""

    def __init__(self, file: bytes) -> None:
        self._file, self._header, self._shared, self._count = file, b"", b"", 0
        self.apart = True  # the still picture is none of the frames: viewers that play no animations show it
        for chunk in chunks(file) if file.startswith(MARK) else ():
            if chunk.kind == b"IDAT":
                break
            if chunk.kind == b"IHDR" and len(chunk.data) == 13:
                self._header = bytes(chunk.data)
            elif chunk.kind in (b"PLTE", b"tRNS") and chunk.sound:
                self._shared += chunk.packed
            elif chunk.kind == b"acTL" and chunk.sound and len(chunk.data) == 8:
                self._count, plays = struct.unpack(">II", chunk.data)
                self.loops = plays == 0
            elif chunk.kind == b"fcTL":
                self.apart = False
        if not self._header or self._count < (1 if self.apart else 2):
            raise TornError
        self.size: tuple[int, int] = struct.unpack_from(">II", self._header)

    def frames(self) -> Iterator[Frame]:
        """Decodes the frames in their order. Raises TornError where the file is broken or cut."""
        canvas = Canvas(self.size)
        for number, (control, data, whole) in enumerate(self._images()):
            left, top, right, bottom = control.box
            if right > self.size[0] or bottom > self.size[1] or self._is_short(number, control.box):
                raise TornError
            patch, there = self._decoded((right - left, bottom - top), data)
            if control.over:
                canvas.compose(patch, control.box, control.disposal)
            else:
                canvas.paste(patch, control.box, None, control.disposal)
            yield Frame(canvas.shown(), control.seconds, patch.width * patch.height + self.size[0] * self.size[1])
            if not (whole and there):
                raise TornError
            canvas.dispose()

    def _is_short(self, number: int, box: Box) -> bool:
        """Whether the still picture, as the first frame, is said to be smaller than the file's pictures."""
        return number == 0 and not self.apart and box != (0, 0, *self.size)

    def still(self) -> pil.Image:
        """The picture that viewers show which play no animations, decoded. Raises TornError if there is none."""
        still = mended(self._file)
        if still is None:
            raise TornError
        image, there = salvaged(lambda: pil.open(BytesIO(still[0]), formats=["PNG"]))
        return image if there is None else on_white(eight_bits(image, still[0], marks_of(still[0])), there)

    def _images(self) -> Iterator[tuple[_Control, bytes, bool]]:
        """The images of the frames, and whether all of each is there.

        Raises TornError where the file is cut, or a chunk is out of order.
        """
        control: _Control | None = None
        data: list[memoryview] = []
        expected, count = 0, 0
        ended, ordered, whole = False, True, True
        for chunk in chunks(self._file):
            whole, ended = chunk.whole, chunk.kind == b"IEND"
            if chunk.kind == b"fcTL":
                if control is not None and data:
                    yield control, b"".join(data), True
                    count += 1
                    if count == self._count:
                        return
                elif control is not None:
                    raise TornError
                control, data = _control(chunk, expected), []
                expected += 1
            elif chunk.kind == b"fdAT":
                ordered = chunk.data[:4] == struct.pack(">I", expected)
                if not ordered:
                    break
                data.append(chunk.data[4:])
                expected += 1
            elif chunk.kind == b"IDAT" and control is not None:
                data.append(chunk.data)
        if control is not None and data:
            yield control, b"".join(data), whole
            count += 1
        if not ordered or (not ended and count < self._count):
            raise TornError

    def _decoded(self, size: tuple[int, int], data: bytes) -> tuple[pil.Image, bool]:
        """An image of the file as RGBA, and whether all of it is there. What is not there is transparent."""
        header = struct.pack(">II", *size) + self._header[8:]
        file = b"".join((MARK, packed(b"IHDR", header), self._shared, packed(b"IDAT", data), packed(b"IEND")))
        try:
            image, there = salvaged(lambda: pil.open(BytesIO(file), formats=["PNG"]))
        except Exception as error:
            raise TornError from error
        patch = eight_bits(image, file, marks_of(file)).convert("RGBA")
        if there is not None:
            patch.putalpha(ImageChops.darker(patch.getchannel("A"), there))
        return patch, there is None


def _control(chunk: Chunk, expected: int) -> _Control:
    if not chunk.sound or len(chunk.data) != 26:
        raise TornError
    number, width, height, left, top, delay, share, disposal, blend = struct.unpack(">IIIIIHHBB", chunk.data)
    if number != expected or not (width and height) or disposal > 2 or blend > 1:
        raise TornError
    box = (left, top, left + width, top + height)
    return _Control(box, delay / (share or 100), DISPOSALS.get(disposal, Disposal.KEEP), bool(blend))
