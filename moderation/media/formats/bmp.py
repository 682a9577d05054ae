"""BMP as browsers show it: all depths, masks and runs. Pillow's own reader refuses many of them, and ignores alpha.

Sources: the headers of the Windows SDK and of OS/2, and what Chromium shows of tests/browser/corpus/bmp.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import BmpImagePlugin, ImageChops, ImageFile
from PIL import Image as pil

if TYPE_CHECKING:
    from PIL._imaging import PixelAccess

OS2 = 12  # bytes of OS/2's first header, which has sizes of 16 bits and colours of 3 bytes
OS2_HEADERS = range(16, 65)  # of OS/2's second one, of which the end may be left out
V1, V2, V3, V4, V5 = 40, 52, 56, 108, 124  # bytes of the headers of Windows
RAW, RLE8, RLE4, FIELDS, RLE24, ALPHA_FIELDS = 0, 1, 2, 3, 4, 6
DEPTHS = {RAW: (1, 2, 4, 8, 16, 24, 32), RLE8: (8,), RLE4: (4,), RLE24: (24,), FIELDS: (16, 32), ALPHA_FIELDS: (16, 32)}
MASKS = {16: (0x7C00, 0x03E0, 0x001F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}  # where the file names none
RUN, LINE_END, END, JUMP = 0, 0, 1, 2  # codes of compressed data


@dataclass(frozen=True, slots=True)
class _Header:
    width: int
    height: int
    top_down: bool
    bits: int
    compression: int
    masks: tuple[int, ...]  # red, green, blue, alpha; 0: none
    palette: bytes  # RGB
    start: int  # of the data

    @property
    def stride(self) -> int:
        """Bytes of a row, which is filled up to 32 bits."""
        return (self.width * self.bits + 31) // 32 * 4

    @property
    def mode(self) -> str:
        return "RGBA" if self.masks[3] else "RGB"


class BmpFile(ImageFile.ImageFile):
    """A BMP file: of mode RGBA where its header has a mask for alpha, otherwise RGB."""

    format = "BMP"
    format_description = "Windows Bitmap"

    def _open(self) -> None:
        self._file = self.fp.read() if self.fp else b""
        self._header = header = _header(self._file)
        self._size, self._mode = (header.width, header.height), header.mode
        self._skipped: pil.Image | None = None  # 255 where compressed data leaves pixels out
        # Rows as they stand in the file: of a cut file, the last ones are missing.
        how = (header.mode, 0, 1 if header.top_down else -1)
        self.tile = [ImageFile._Tile("raw", (0, 0, *self._size), 0, how)]

    def load(self) -> PixelAccess | None:
        """Raises OSError where the file is cut, behind the rows that are there."""
        if self.tile:
            rows, self._skipped = _decoded(self._file, self._header)
            self.fp = BytesIO(rows)
        return super().load()

    def otherwise(self) -> Iterator[pil.Image]:
        """Yields what other viewers show: no alpha at all; white, and not black, where data leaves pixels out."""
        if self.mode == "RGBA":
            yield self.convert("RGB")
        if self._skipped is not None:
            on_white = self.convert("RGB")
            on_white.paste("white", mask=self._skipped)
            yield on_white


def _header(file: bytes) -> _Header:
    """Raises SyntaxError, as Pillow wants it, where this is no BMP file that can be read."""
    try:
        return _parsed(file)
    except (struct.error, ValueError) as error:
        raise SyntaxError(str(error)) from None


def _parsed(file: bytes) -> _Header:
    start, size = struct.unpack_from("<II", file, 10)
    told, masks = 0, (0, 0, 0, 0)
    compression = RAW
    if size == OS2:
        width, height, _, bits = struct.unpack_from("<HHHH", file, 18)
    elif size in OS2_HEADERS or size in (V4, V5):
        width, height, _, bits = struct.unpack_from("<iiHH", file, 18)
        rest = file[30 : 14 + size].ljust(20, b"\0")
        compression, _, _, _, told = struct.unpack_from("<IIIII", rest)
    else:
        raise ValueError("an unknown header")
    begin = 14 + size
    windows = size in (V1, V2, V3, V4, V5)
    if compression in (FIELDS, ALPHA_FIELDS):
        count = (4 if compression == ALPHA_FIELDS else 3) if size == V1 else 3 if size == V2 else 4
        masks = (*struct.unpack_from(f"<{count}I", file, 54), 0)[:4]
        begin += 4 * count if size == V1 else 0
    elif bits in MASKS:
        masks = MASKS[bits]
    if bits not in DEPTHS.get(compression, ()) or (compression == RLE24 and windows) or width <= 0 or not height:
        raise ValueError("an unknown depth or compression")
    step = 3 if size == OS2 else 4
    colours = b""
    if bits <= 8:
        count = min(told or 1 << bits, 1 << bits, max(0, start - begin) // step)
        entries = file[begin : begin + step * count]
        colours = b"".join(entries[at : at + 3][::-1] for at in range(0, len(entries) - step + 1, step))
    return _Header(width, abs(height), height < 0, bits, compression, masks, colours, start)


def _decoded(file: bytes, header: _Header) -> tuple[bytes, pil.Image | None]:
    """The rows of the picture that are there, in the order of the file, and the mask of pixels that were left out."""
    if header.compression in (RLE8, RLE4, RLE24):
        return _unpacked(file, header)
    there = min(header.height, max(0, len(file) - header.start) // header.stride)
    if not there:
        return b"", None
    data = file[header.start : header.start + there * header.stride]
    size = (header.width, there)
    if header.bits <= 8:
        indices = pil.frombytes(
            "P", size, data, "raw", f"P;{header.bits}" if header.bits < 8 else "P", header.stride, 1
        )
        return _coloured(indices, header.palette).tobytes(), None
    if header.bits == 24:
        return pil.frombytes("RGB", size, data, "raw", "BGR", header.stride, 1).tobytes(), None
    mode = "LA" if header.bits == 16 else "RGBA"  # a band for each byte
    parts = pil.frombytes(mode, size, data, "raw", mode, header.stride, 1).split()
    bands = [_field(parts, mask) for mask in header.masks[: len(header.mode)]]
    return pil.merge(header.mode, bands).tobytes(), None


def _coloured(indices: pil.Image, palette: bytes) -> pil.Image:
    """Indices without a colour are black."""
    indices.putpalette(palette.ljust(768, b"\0"))
    return indices.convert("RGB")


def _field(parts: Sequence[pil.Image], mask: int) -> pil.Image:
    """The levels of a field of some bits, of an image of little-endian numbers that is given byte by byte."""
    if not mask:
        return pil.new("L", parts[0].size)
    lowest = (mask & -mask).bit_length() - 1
    most = mask >> lowest
    tables = [[round(((byte << 8 * part & mask) >> lowest) * 255 / most) for byte in range(256)] for part in range(4)]
    shares = [part.point(table) for part, table in zip(parts, tables, strict=False) if any(table)]
    return reduce(ImageChops.add, shares) if shares else pil.new("L", parts[0].size)


def _unpacked(file: bytes, header: _Header) -> tuple[bytes, pil.Image | None]:
    channels = 3 if header.compression == RLE24 else 1
    canvas = _Rows(header.width, header.height, channels)
    ended = _run(file[header.start :], header.compression, canvas)
    there = header.height if ended else min(canvas.y, header.height)
    if not there:
        return b"", None
    size = (header.width, there)
    if channels == 3:
        picture = pil.frombytes("RGB", size, bytes(canvas.values[: there * canvas.stride]), "raw", "BGR")
    else:
        picture = _coloured(pil.frombytes("P", size, bytes(canvas.values[: there * canvas.stride])), header.palette)
    drawn = pil.frombytes("L", size, bytes(canvas.drawn[: there * header.width]))
    picture.paste("black", mask=ImageChops.invert(drawn))
    if drawn.getextrema() == (255, 255) or there < header.height:
        return picture.tobytes(), None
    left_out = ImageChops.invert(drawn)
    upright = left_out if header.top_down else left_out.transpose(pil.Transpose.FLIP_TOP_BOTTOM)
    return picture.tobytes(), upright


class _Rows:
    """What compressed data draws, row by row in the order of the file. What lies outside is cut off."""

    def __init__(self, width: int, height: int, channels: int) -> None:
        self.width, self.height, self.channels, self.stride = width, height, channels, width * channels
        self.values = bytearray(self.stride * height)
        self.drawn = bytearray(width * height)
        self.x = self.y = 0

    def draw(self, values: bytes, count: int) -> None:
        fit = min(count, self.width - self.x)
        if fit > 0 and self.y < self.height:
            at = self.y * self.width + self.x
            self.values[at * self.channels : (at + fit) * self.channels] = values[: fit * self.channels]
            self.drawn[at : at + fit] = b"\xff" * fit
        self.x += count

    def move(self, right: int, down: int) -> None:
        self.x, self.y = self.x + right, self.y + down


def _run(data: bytes, compression: int, canvas: _Rows) -> bool:
    """Draws compressed data. Whether the picture is all there: the data says that it ends, or has filled all rows."""
    at, end = 0, len(data)
    while at + 2 <= end:
        count, code = data[at], data[at + 1]
        if count != RUN:
            if compression == RLE24:
                canvas.draw(data[at + 1 : at + 4] * count, count)
                at += 4
                continue
            canvas.draw(_pixels(bytes([code]) * count, count, compression), count)
            at += 2
        elif code == LINE_END:
            canvas.move(-canvas.x, 1)
            at += 2
        elif code == END:
            return True
        elif code == JUMP:
            if at + 4 > end:
                break
            canvas.move(data[at + 2], data[at + 3])
            at += 4
        else:
            size = {RLE4: (code + 1) // 2, RLE8: code, RLE24: 3 * code}[compression]
            canvas.draw(_pixels(data[at + 2 : at + 2 + size], code, compression), code)
            at += 2 + size + size % 2
        if canvas.y >= canvas.height:
            return True
    return canvas.y == canvas.height - 1 and canvas.x >= canvas.width


def _pixels(packed: bytes, count: int, compression: int) -> bytes:
    if compression != RLE4:
        return packed
    return bytes(half for byte in packed for half in (byte >> 4, byte & 15))[:count]


# In the place of Pillow's own. Whoever opens a BMP file in this process gets this one.
pil.register_open(BmpFile.format, BmpFile, BmpImagePlugin._accept)
