"""AVIF files put together from boxes, around pictures that Pillow's encoder has made."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from PIL import Image as pil

from tests.browser.writing.saved import saved

ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0"


def box(kind: bytes, *body: bytes) -> bytes:
    """A box, with its size."""
    data = b"".join(body)
    return struct.pack(">I", len(data) + 8) + kind + data


def full_box(kind: bytes, *body: bytes, version: int = 0, flags: int = 0) -> bytes:
    """A box with a version."""
    return box(kind, struct.pack(">I", version << 24 | flags), *body)


@dataclass(frozen=True, slots=True)
class Item:
    """A picture of the file, or a grid of pictures."""

    kind: bytes
    data: bytes
    properties: Sequence[bytes]
    references: Sequence[tuple[bytes, tuple[int, ...]]] = field(default=())  # kind, and numbers of items
    hidden: bool = False


def coded(picture: pil.Image, *more: bytes, hidden: bool = False, **options: object) -> Item:
    """A picture, encoded. `more`: properties beside its size and its codec's."""
    file = saved(picture, "AVIF", **({"quality": 95, "subsampling": "4:4:4"} | options))
    found = [file[at - 4 : at - 4 + struct.unpack(">I", file[at - 4 : at])[0]] for at in _all(file, b"av1C")]
    colours = [file[at - 4 : at - 4 + struct.unpack(">I", file[at - 4 : at])[0]] for at in _all(file, b"colr")]
    data = file[file.index(b"mdat") + 4 :]
    size = full_box(b"ispe", struct.pack(">II", *picture.size))
    return Item(b"av01", data, [size, found[0], *colours[:1], *more], hidden=hidden)


def a_file(items: Sequence[Item], *, primary: int = 1, brands: bytes = b"avifmif1miaf") -> bytes:
    """Items are numbered from 1."""
    properties: list[bytes] = []
    links = b""
    for number, item in enumerate(items, 1):
        places = []
        for each in item.properties:
            if each not in properties:
                properties.append(each)
            essential = 0x80 if each[4:8] in (b"av1C", b"irot", b"imir", b"clap") else 0
            places.append(essential | properties.index(each) + 1)
        links += struct.pack(">HB", number, len(places)) + bytes(places)
    references = b"".join(
        box(kind, struct.pack(f">HH{len(numbers)}H", number, len(numbers), *numbers))
        for number, item in enumerate(items, 1)
        for kind, numbers in item.references
    )
    names = b"".join(
        full_box(b"infe", struct.pack(">HH4s", number, 0, item.kind), b"\0", version=2, flags=int(item.hidden))
        for number, item in enumerate(items, 1)
    )

    def head(start: int) -> bytes:
        places, at = b"", start
        for number, item in enumerate(items, 1):
            places += struct.pack(">HHHII", number, 0, 1, at, len(item.data))
            at += len(item.data)
        meta = full_box(
            b"meta",
            full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
            full_box(b"pitm", struct.pack(">H", primary)),
            full_box(b"iloc", b"\x44\0", struct.pack(">H", len(items)), places),
            full_box(b"iinf", struct.pack(">H", len(items)), names),
            *([full_box(b"iref", references)] if references else []),
            box(b"iprp", box(b"ipco", *properties), full_box(b"ipma", struct.pack(">I", len(items)), links)),
        )
        return box(b"ftyp", b"avif", bytes(4), brands) + meta

    start = len(head(0)) + 8
    return head(start) + box(b"mdat", *(item.data for item in items))


def a_grid(picture: pil.Image, rows: int, columns: int, *more: bytes, **options: object) -> list[Item]:
    """A grid, and its tiles behind it."""
    width, height = picture.size
    wide, high = -(-width // columns), -(-height // rows)
    tiles = []
    for number in range(rows * columns):
        x, y = number % columns * wide, number // columns * high
        tile = picture.crop((x, y, x + wide, y + high))
        tiles.append(coded(tile, hidden=True, **options))
    data = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    size = full_box(b"ispe", struct.pack(">II", width, height))
    grid = Item(b"grid", data, [size, *more], [(b"dimg", tuple(range(2, 2 + len(tiles))))])
    return [grid, *tiles]


def turned(quarters: int) -> bytes:
    """Turned against the clock."""
    return box(b"irot", bytes([quarters]))


def mirrored(axis: int) -> bytes:
    """0: top and bottom change places, 1: left and right."""
    return box(b"imir", bytes([axis]))


def cropped(width: int, height: int, right: tuple[int, int], down: tuple[int, int]) -> bytes:
    """A clean aperture: its size, and how far its middle is from the picture's, as fractions."""
    return box(b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, *right, *down))


def _all(file: bytes, kind: bytes) -> list[int]:
    found, at = [], file.find(kind)
    while at >= 0:
        found.append(at)
        at = file.find(kind, at + 1)
    return found


def deeper(item: Item, depth: int) -> Item:
    """The item as one of 10 or 12 bits: the same coefficients, which count in steps of that depth.

    No encoder at hand has more than 8 bits. AV1 codes coefficients alike at every depth, and scales them behind that.
    """
    start = item.data.index(b"\x0a")  # the header of the sequence, behind the mark of a picture's beginning
    length = item.data[start + 1]
    header = "".join(f"{byte:08b}" for byte in item.data[start + 2 : start + 2 + length])
    at = 10  # profile, still picture, short header, level
    wide, high = int(header[at : at + 4], 2) + 1, int(header[at + 4 : at + 8], 2) + 1
    at += 8 + wide + high + 6  # sizes, and six tools
    sampled = header[:3] == "000"  # profile 0: colours at half the size, or none
    grey = sampled and header[at + 1] == "1"
    described = at + 1 + (header[:3] != "001")
    behind = described + 1 + 24 * int(header[described]) + 1  # colours, and their range
    bits = header[3:at] + "1" + "1" * (depth == 12) + header[at + 1 : behind]
    if depth == 12:
        mono = "" if header[:3] != "001" else "0"
        bits = header[3:at] + "11" + mono + header[at + 1 : behind] + ("" if grey else "11" if sampled else "0")
    bits = ("010" if depth == 12 else header[:3]) + bits + header[behind:]
    packed = bytes(int(bits[each : each + 8].ljust(8, "0"), 2) for each in range(0, len(bits), 8))
    data = item.data[:start] + b"\x0a" + bytes([len(packed)]) + packed + item.data[start + 2 + length :]
    properties = []
    for each in item.properties:
        told = each
        if each[4:8] == b"av1C":
            profile = 0x40 if depth == 12 else each[9] & 0xE0
            told = each[:9] + bytes([profile | each[9] & 0x1F, each[10] | 0x40 | 0x20 * (depth == 12)]) + each[11:]
        properties.append(told)
    return replace(item, data=data, properties=properties)
