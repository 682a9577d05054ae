"""Image files that want to break a decoder, fill the memory or take for ever. Each is made here, from a seed."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from io import BytesIO

from PIL import Image as pil
from PIL import PngImagePlugin

from tests.fuzz.mutations import PNG, png_mended
from tests.fuzz.seeds import SEEDS
from tests.support.builders import a_file, an_image

SIDE = 1_900  # of pictures just within the limit of four million pixels
MARK = "zqzqzqzqzqzqzqzq"  # in every hostile post; in no log, metric, status or verdict
BLANK_SCANS = 30_000  # of a progressive JPEG: a minute or more of decoding


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    return PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


@cache
def _files() -> list[bytes]:
    return list(SEEDS["pictures"]())


def damaged(draw: random.Random) -> bytes:
    """A good small file with a few bytes changed, cut out, repeated, or taken from another file."""
    file = bytearray(draw.choice(_files()))
    for _ in range(draw.randint(1, 5)):
        at = draw.randrange(len(file)) if file else 0
        end = at + draw.randint(0, 40)
        match draw.randrange(5):
            case 0:
                file[at : at + 4] = draw.randbytes(4)
            case 1:
                del file[at:end]
            case 2:
                file[at:at] = file[at:end] * draw.randint(1, 30)
            case 3:
                del file[at:]
            case _:
                file[at:] = draw.choice(_files())[at:]
    return png_mended(bytes(file)) if draw.random() < 0.7 else bytes(file)


def noise(draw: random.Random) -> bytes:
    """Random bytes behind the beginning of a known format."""
    starts = (PNG, b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\xff\xff\0\0WEBPVP8L", b"BM", b"\0\0\0\x20ftypavif", b"II*\0")
    others = (
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"8BPS\0\1",
        b"\0\0\1\0\1\0",
        b"icns",
        b"P6 9 9 255\n",
        b"<svg ",
        b"%PDF-1.7\n",
    )
    return draw.choice(starts + others) + draw.randbytes(draw.randint(0, 3_000))


def huge_header(draw: random.Random) -> bytes:
    """A size of gigabytes in a few bytes."""
    sides = (0, 1, 65_535, 2**31 - 1, 2**32 - 1, SIDE * 2)
    width, height = draw.choice(sides), draw.choice(sides)
    gif = b"GIF89a" + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) + b"\0\0\0," + bytes(4) + b"\xff\xff\xff\xff"
    webp = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x12\0\0\0" + b"\xff" * 6 + b"ANIM\x06\0\0\0" + bytes(6)
    return draw.choice((header(width, height) + chunk(b"IDAT", zlib.compress(bytes(99))), gif, webp))


def one_bit(draw: random.Random) -> bytes:
    """Many pixels in a small file: above the limit, or just below it."""
    return _blank(draw.choice((20_000, SIDE)))


@cache
def _blank(side: int) -> bytes:
    rows = zlib.compressobj(9)
    body = b"".join(rows.compress(bytes(1 + -(-side // 8))) for _ in range(side)) + rows.flush()
    return header(side, side, 1, 0) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def many_frames(draw: random.Random) -> bytes:
    """An animation of thousands of frames, or of large ones."""
    side, count = draw.choice(((2, 3_000), (SIDE, 40)))
    head = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0" + b"\xff\xff\xff\0\0\0"
    frames = b"".join(b"!\xf9\4\0\1\0\0\0" + _gif_frame(side, level) for level in (0, 1))
    return head + frames * (count // 2) + b";"


@cache
def _gif_frame(side: int, level: int) -> bytes:
    """The part of a GIF with the pixels of one frame, of one level."""
    file = a_file(pil.new("1", (side, side), level), "GIF")
    return file[file.index(b"," + bytes(4) + struct.pack("<HH", side, side)) : -1]


def many_announced(draw: random.Random) -> bytes:
    """An APNG that announces two thousand million frames, and has one."""
    control = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 9, 9, 0, 0, 1, 1, 0, 0))
    body = zlib.compress(bytes(28 * 9))
    return header(9, 9) + chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)) + control + chunk(b"IDAT", body)


def text_bomb(draw: random.Random) -> bytes:
    """Compressed text, or a compressed colour profile, of a hundred megabytes."""
    bomb = _zeros()
    kind, body = draw.choice(((b"zTXt", b"a\0\0"), (b"iCCP", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")))
    pixels = chunk(b"IDAT", zlib.compress(bytes(28 * 9)))
    return header(9, 9) + chunk(kind, body + bomb) * draw.randint(1, 3) + pixels + chunk(b"IEND", b"")


@cache
def _zeros() -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()


def metadata(draw: random.Random) -> bytes:
    """Metadata with words of the user, directories that lead to themselves, or a thousand segments."""
    circle = b"Exif\0\0II*\0\x08\0\0\0" + b"\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0" + b"\x08\0\0\0"
    flood = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1\x12\0\3\xff\xff\xff\xff\0\0\0\0" * 5_000
    match draw.randrange(4):
        case 0:
            said = PngImagePlugin.PngInfo()
            said.add_text("Comment", MARK * draw.randint(1, 99))
            said.add_itxt("XML:com.adobe.xmp", f"<x:{MARK} tiff:Orientation='{MARK}'>")
            return a_file(an_image(9, 9), "PNG", pnginfo=said)
        case 1:
            return a_file(an_image(9, 9), "JPEG", exif=draw.choice((circle, flood)), comment=MARK.encode())
        case 2:
            return a_file(an_image(9, 9), "WEBP", exif=draw.choice((circle, flood)), xmp=MARK.encode())
        case _:
            file = a_file(an_image(9, 9), "JPEG")
            return file[:2] + (b"\xff\xe2\0\x12ICC_PROFILE\0\1\xff" + bytes(2)) * 1_000 + file[2:]


def truncated(draw: random.Random) -> bytes:
    """A good file of a photograph's size, cut off."""
    format = draw.choice(("JPEG", "PNG", "WEBP", "GIF"))
    file = _noisy(format)
    return file[: draw.randrange(len(file))]


@cache
def _noisy(format: str) -> bytes:
    return a_file(pil.effect_noise((400, 300), 60).convert("RGB"), format)


def many_scans(draw: random.Random) -> bytes:
    """A progressive JPEG whose last scan comes tens of thousands of times: it decodes for a minute or more."""
    return _scans(BLANK_SCANS)


@cache
def _scans(count: int) -> bytes:
    file = a_file(pil.new("L", (SIDE, SIDE), 128), "JPEG", progressive=True)
    at = file.rindex(b"\xff\xda")
    end = file.rindex(b"\xff\xd9")
    return file[:at] + file[at:end] * count + file[end:]


def transparent(draw: random.Random) -> bytes:
    """As many pictures as a file gives: transparent, animated, thin."""
    size = draw.choice((700, 20)), 700
    frames = [pil.new("RGBA", size, (level, 0, 0, 99)) for level in range(6)]
    file = BytesIO()
    frames[0].save(file, draw.choice(("PNG", "WEBP", "GIF")), save_all=True, append_images=frames[1:])
    return file.getvalue()


# All kinds but HANGING decode in a second or so, or not at all.
KINDS: Mapping[str, Callable[[random.Random], bytes]] = {
    kind.__name__: kind
    for kind in (
        damaged,
        noise,
        huge_header,
        one_bit,
        many_frames,
        many_announced,
        text_bomb,
        metadata,
        truncated,
        transparent,
    )
}
LIGHT = ("damaged", "noise", "huge_header", "many_announced", "metadata", "truncated")
HANGING = "many_scans"


def files(seed: int, count: int, kinds: tuple[str, ...] = tuple(KINDS)) -> Iterator[tuple[str, bytes]]:
    """So many files with their kinds, in turn."""
    draw = random.Random(seed)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield kind, KINDS[kind](draw)
