"""Files that are cut or slightly broken, and of which a browser shows what is there."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from random import Random

import numpy as np
from PIL import Image as pil

from tests.browser.corpus.case import Case
from tests.browser.writing.pictures import a_scene, with_alpha
from tests.browser.writing.png import RGB, a_png, chunk, header

SIZE = (190, 150)
SHARES = (0.3, 0.45, 0.6, 0.75, 0.95)
ENDS = {"jpg": 2, "png": 12, "gif": 1}  # bytes of the end mark
FLIPS = 3


def cases() -> Iterator[Case]:
    """Cut files, files without their end mark, files with another byte, and PNG files with chunks out of order."""
    for name, suffix, data in _whole():
        for share in SHARES:
            yield Case(f"{name}-{share:.0%}", suffix, data[: int(len(data) * share)])
        if suffix in ENDS:
            for cut in range(1, ENDS[suffix] + 4):
                yield Case(f"{name}-less-{cut}", suffix, data[:-cut])
    chance = Random(19)
    for name, suffix, data in _whole():
        if suffix not in ("jpg", "gif") or "progressive" in name:  # of which a browser may show nothing
            continue
        for number in range(FLIPS):
            place = chance.randrange(len(data) // 3, len(data) * 3 // 4)
            changed = bytes([data[place] ^ chance.randrange(1, 255)])
            yield Case(f"{name}-byte-{number}", suffix, data[:place] + changed + data[place + 1 :])
    yield from _chunks()


def _whole() -> Iterator[tuple[str, str, bytes]]:
    scene = a_scene(*SIZE)
    grey = scene.convert("L")
    deep = pil.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for mode in ("RGB", "L", "CMYK"):
        yield f"jpeg-{mode}", "jpg", _file(scene.convert(mode), "JPEG")
    yield "jpeg-444", "jpg", _file(scene, "JPEG", subsampling=0)
    yield "jpeg-restarts", "jpg", _file(scene, "JPEG", restart_marker_rows=1)
    yield "jpeg-progressive", "jpg", _file(scene, "JPEG", progressive=True)
    yield "jpeg-progressive-grey", "jpg", _file(grey, "JPEG", progressive=True)
    for picture in (scene, grey, deep, scene.convert("P"), grey.convert("1"), with_alpha(scene)):
        yield f"png-{picture.mode}", "png", _file(picture, "PNG")
    yield "png-16", "png", a_png(np.asarray(scene).astype(np.uint32) * 257, RGB, 16)
    yield "gif", "gif", _file(scene, "GIF", interlace=0)
    yield "gif-interlaced", "gif", _file(scene, "GIF", interlace=1)
    for mode in ("RGB", "P", "1"):
        yield f"bmp-{mode}", "bmp", _file(scene.convert(mode), "BMP")


def _file(picture: pil.Image, format: str, **options: object) -> bytes:
    file = BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def _broken(kind: bytes, body: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ 1)


def _chunks() -> Iterator[Case]:
    """Chunks that browsers pass over, where other readers refuse the file."""
    scene = np.asarray(a_scene(*SIZE))
    for kind, body in (
        (b"tEXt", b"Comment\0a text"),
        (b"zTXt", b"Comment\0\0no zlib"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 << 20))),
        (b"iTXt", b"Comment"),
        (b"tIME", b"a"),
        (b"pHYs", b"a"),
        (b"iCCP", b"profile\0\0no zlib"),
        (b"gAMA", b"a"),
        (b"cHRM", b"a"),
        (b"sRGB", b""),
        (b"tRNS", b"a"),
        (b"zzZz", b"anything"),
    ):
        name = f"png-{kind.decode()}-{len(body)}"
        yield Case(f"{name}-broken", "png", a_png(scene, RGB, 8, [_broken(kind, body)]))
        yield Case(f"{name}-short", "png", a_png(scene, RGB, 8, [chunk(kind, body)]))
    yield Case("png-few-rows", "png", _with_less_data(a_png(scene, RGB, 8)))
    for name, data in _animated().items():
        yield Case(f"apng-{name}", "png", data)


def _with_less_data(png: bytes) -> bytes:
    """The file with the first two thirds of its rows, as if there were no others: nothing is cut or broken."""
    place = png.index(b"IDAT")
    (length,) = struct.unpack_from(">I", png, place - 4)
    rows = zlib.decompress(png[place + 4 : place + 4 + length])
    data = zlib.compress(rows[: len(rows) * 2 // 3])
    return png[: place - 4] + chunk(b"IDAT", data) + png[place + 8 + length :]


def _animated() -> dict[str, bytes]:
    """Animations whose chunks are out of order."""
    scene = a_scene(*SIZE)
    frames = [scene, scene.rotate(180), scene.rotate(90)]
    rows = [b"".join(b"\0" + row.tobytes() for row in np.asarray(frame.convert("RGB"))) for frame in frames]
    data = [zlib.compress(each) for each in rows]
    count = chunk(b"acTL", struct.pack(">II", 3, 0))
    controls = [struct.pack(">IIIIIHHBB", number, *SIZE, 0, 0, 1, 10, 0, 0) for number in (0, 1, 3)]
    first, second, third = (chunk(b"fcTL", control) for control in controls)
    still = chunk(b"IDAT", data[0])
    others = [chunk(b"fdAT", struct.pack(">I", number) + body) for number, body in ((2, data[1]), (4, data[2]))]
    orders = {
        "in-order": [count, first, still, second, others[0], third, others[1]],
        "frames-swapped": [count, first, still, third, others[1], second, others[0]],
        "count-behind-the-control": [first, count, still, second, others[0], third, others[1]],
        "count-behind-the-data": [first, still, count, second, others[0], third, others[1]],
        "data-before-its-control": [count, first, still, others[0], second, third, others[1]],
        "control-twice": [count, first, still, second, second, others[0], third, others[1]],
        "broken-control": [count, first, still, _broken(b"fcTL", controls[1]), others[0], third, others[1]],
        "broken-count": [_broken(b"acTL", struct.pack(">II", 3, 0)), first, still, second, others[0]],
        "more-frames-than-there-are": [chunk(b"acTL", struct.pack(">II", 9, 0)), first, still, second, others[0]],
    }
    whole = struct.pack(">IIIIIHHBB", 0, *SIZE, 0, 0, 1, 10, 0, 0)
    part = struct.pack(">IIIIIHHBB", 0, 50, 40, 10, 20, 1, 10, 0, 0)
    one = chunk(b"acTL", struct.pack(">II", 1, 0))
    small = np.asarray(frames[1].crop((0, 0, 50, 40)))
    few = zlib.compress(b"".join(b"\0" + row.tobytes() for row in small))
    orders["one-frame-apart"] = [one, still, chunk(b"fcTL", whole), chunk(b"fdAT", struct.pack(">I", 1) + data[1])]
    orders["small-frame-apart"] = [count, still, chunk(b"fcTL", part), chunk(b"fdAT", struct.pack(">I", 1) + few)]
    begin, end = b"\x89PNG\r\n\x1a\n" + header(*SIZE, 8, RGB), chunk(b"IEND")
    return {name: begin + b"".join(order) + end for name, order in orders.items()}
