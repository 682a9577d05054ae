"""Files and values from which the fuzzer, and Hypothesis, make others: small, and of every kind that is read."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO

from google.protobuf import json_format
from PIL import Image as pil
from PIL import features

from moderation import wire
from moderation.v1 import post_pb2
from tests.support.builders import a_file, a_finding, a_verdict, an_image
from tests.support.repository import REPO

JSON, PROTOBUF, NAMED = b"\0", b"\1", b"\x0f"  # the first byte of a value: promises.wire_values
FULL = {
    "id": "post-1",
    "text": "héllo 🌊",
    "images": [{"data": base64.b64encode(b"\xfb\xff\0").decode(), "alt": "a lake"}, {"uri": "file:///img/1.png"}],
    "tenant": "acme",
    "language": "fr-CA",
    "surface": "comment",
}


def wire_values() -> Iterator[bytes]:
    """Posts and verdicts in both formats, and headers."""
    message = json_format.ParseDict(FULL, post_pb2.Post()).SerializeToString()
    yield JSON + json.dumps(FULL).encode()
    yield JSON + json.dumps({"id": "a", "images": [{"uri": "data:image/png;base64,iVBORw0KGgo="}]}, indent=1).encode()
    yield JSON + b'\xef\xbb\xbf{"id":"a","text":"\\ud800\\u0000","images":null}'
    yield PROTOBUF + message
    yield b"\4" + b"\0\0\0\0\7\0" + message
    yield b"\4" + b"\0\0\0\0\7" + json.dumps(FULL).encode()
    yield NAMED + b'application/json; charset="utf-8"\n{"id":"a"}'
    yield NAMED + b"application/protobuf\n\n\1a"
    formats: tuple[wire.Format, ...] = ("json", "protobuf")
    for number, format in enumerate(formats):
        value, _ = wire.verdict_record(a_verdict(findings=(a_finding(),)), format)
        yield bytes([number]) + value
    yield JSON + b"dlq.error.code=NULL_VALUE\ndlq.value.null=true\ndlq.post.id=a\nerased-by=posts/1/2\nerased-at=17"


def pictures() -> Iterator[bytes]:
    """A file of each format and mode that is read, a few pixels large."""
    for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "CMYK"):
        for format in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"):
            try:
                yield a_file(_drawn(mode), format)
            except (OSError, ValueError):
                continue  # the format has no such mode
    yield a_file(_drawn("RGB"), "JPEG", progressive=True, exif=_turned(), icc_profile=b"not a profile")
    yield a_file(_drawn("RGB"), "PNG", exif=_turned(), gamma=0.45)
    yield a_file(_drawn("RGBA"), "WEBP", lossless=True, exif=_turned().tobytes())
    for format in ("GIF", "PNG", "WEBP"):
        frames = [an_image(9, 7, (number * 60, 0, 255)) for number in range(4)]
        file = BytesIO()
        frames[0].save(file, format, save_all=True, append_images=frames[1:], duration=40)
        yield file.getvalue()
    if features.check("avif"):
        yield a_file(_drawn("RGB"), "AVIF")
    file = BytesIO()
    an_image(9, 7).save(file, "MPO", save_all=True, append_images=[an_image(9, 7, (0, 0, 9))])
    yield file.getvalue()


def _drawn(mode: str) -> pil.Image:
    gradient = pil.linear_gradient("L").resize((16, 12))
    return gradient.convert("I").convert("I;16") if mode == "I;16" else gradient.convert(mode)


def _turned() -> pil.Exif:
    exif = pil.Exif()
    exif[0x0112] = 6
    return exif


def policies() -> Iterator[bytes]:
    """The policies of the repository, and a small one."""
    for path in sorted((REPO / "policies").glob("*.yaml")):
        yield path.read_bytes().replace(f"id: {path.stem}".encode(), b"id: lakes", 1)
    yield (
        b"id: lakes\nversion: 1\ntitle: Lakes\nquestion: Is it a lake?\nviolates: &a [{id: L1, text: a lake}]\n"
        b"allows: [{id: L2, text: 'a pond'}]\nexamples: [{text: \"a\", label: L1}]\ndefinitions: {lake: water}\n"
        b"applies_to: {media: [text], languages: [de, pt-BR], surfaces: ['*']}\n"
        b"thresholds: {review: 0.5, remove: 0.9, mass: 0.1}\non_error: allow\nstatus: live\nseverity: high\n"
    )


def texts() -> Iterator[bytes]:
    """Disguises of several kinds."""
    for text in (
        "k1ll th3m",
        "k i l l",
        "ｋⅰ𝐥🅻",
        "🇰🇮🇱🇱",
        "сосаinе",
        "a\u0301\u0336\u0315",
        "\u202emob\u202c",
        "م\u200cم 👨\u200d👩",
    ):
        yield text.encode()


SEEDS: Mapping[str, Callable[[], Iterator[bytes]]] = {
    "wire": wire_values,
    "pictures": pictures,
    "policies": policies,
    "texts": texts,
}
# Words that bytes drawn by chance would seldom hold.
WORDS: Mapping[str, tuple[bytes, ...]] = {
    "wire": (
        *(f'"{name}"'.encode() for name in ("id", "text", "images", "data", "uri", "alt", "tenant", "language")),
        *(b'"surface"', b'"postId"', b'"findings"', b'"outcome"', b"data:;base64,", b"data:,%41", b"null", b"\\ud83d"),
        *(b"\xef\xbb\xbf", b"application/json", b"; charset=utf-8", b"1e999", b"\x1a\x00", b"\xff\xff\xff\xff\x0f"),
        *(b"dlq.error.detail=", b"dlq.original.topic=", b"copy-of=", b"erased-at=", b"replay-of="),
    ),
    "pictures": (
        *(b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"eXIf", b"iTXt"),
        *(b"tEXt", b"zTXt", b"acTL", b"fcTL", b"fdAT", b"RIFF", b"WEBP", b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF"),
        *(b"ALPH", b"ICCP", b"EXIF", b"XMP ", b"GIF89a", b"NETSCAPE2.0", b"\x21\xf9\x04", b"\xff\xd8\xff\xe0", b"JFIF"),
        *(b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0\1\1", b"\xff\xc0", b"\xff\xc2", b"\xff\xda", b"\xff\xd9", b"Adobe"),
        *(b"ftypavif", b"ftypavis", b"irot", b"imir", b"colr", b"nclx", b"BM", b"II*\0", b"MM\0*", b"<svg"),
    ),
    "policies": (
        *(b"id: ", b"version: ", b"title: ", b"question: ", b"violates:\n  - ", b"thresholds: {", b"applies_to:"),
        *(b"languages: [", b"surfaces: [", b"media: [", b"definitions: {", b"examples: [{text: ", b"label: ", b"&a "),
        *(b"*a", b"<<: ", b"!!python/object:", b"!!binary ", b"2026-13-45", b".inf", b".nan", b"0o17", b"--- "),
        *(b"status: shadow", b"on_error: remove", b"severity: none", b"\xc2\x85", b"\xe2\x80\xa8", b"|+\n", b">-\n"),
    ),
    "texts": tuple(sign.encode() for sign in "\u200b\u200d\u00ad\u202d\u202e\u2066\u2069\ufe0f\u0336\u20e0оε𝐤ｋⓚ🅺🇰ᴋﷺﻗ"),
}
