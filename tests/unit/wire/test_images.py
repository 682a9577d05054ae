"""An image's bytes are read as every reader reads them, and as nothing else."""

from __future__ import annotations

import base64
import json
import tracemalloc
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation import wire
from moderation.settings import MediaSettings
from moderation.types import Detail, Image
from moderation.v1 import post_pb2
from moderation.wire.images import image
from tests.support.wire_values import PROTOBUF

MEDIA = MediaSettings()
FILE = b"\xfb\xff\x00#%41"  # what URLs and alphabets treat specially
ENCODED = base64.b64encode(FILE).decode()


def read(data: bytes | str = "", uri: str = "") -> Image:
    return image(data, uri, "", "images[0]", MEDIA)


@pytest.mark.parametrize("data", ["+/8A", "-_8A", "+/8AAA==", "+/8AAA", "-_8AAA", "+/\n8A", "+/8A\r\n", "\n+/8A"])
def test_both_alphabets_padded_or_not_in_lines_or_not(data: str) -> None:
    assert (read(data).data or b"").rstrip(b"\0") == b"\xfb\xff"


@pytest.mark.parametrize(
    "data", ["A", "AAAA=", "A===", "AA AA", "AAAA ", "AAAA\\n", "AA=A", "AÄ==", "+_8A", "AAA!", "=", "A\ud800AA"]
)
def test_not_base64(data: str) -> None:
    problem = read(data).problem
    assert problem is not None
    assert problem.detail is Detail.BASE64


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{ENCODED}",
        f"DATA:;BASE64,{ENCODED}",
        f"data:image/png;name=a.png; base64 ,{ENCODED}",
        f"data:image/png;base64,{quote(ENCODED, safe='')}#a-fragment",
        f"data:image/png;base64,\n{ENCODED[:4]}\r\n{ENCODED[4:]}",
        f"data:image/png,{quote(FILE, safe='')}",
        f"data:,{quote(FILE)}",
        f"data:,{quote(FILE)[:5]}\n{quote(FILE)[5:]}",
    ],
)
def test_a_data_url_is_read_wherever_it_stands(url: str) -> None:
    assert read(url) == read("", url) == read(url.encode()) == Image(data=FILE)
    assert read(base64.b64encode(url.encode()).decode()) == Image(data=FILE)
    fields = [{"data": url}, {"uri": url}]
    from_json = wire.post_record(json.dumps({"id": "1", "images": fields}).encode(), (), MEDIA)
    message = post_pb2.Post(id="1", images=[post_pb2.Image(data=url.encode()), post_pb2.Image(uri=url)])
    from_protobuf = wire.post_record(message.SerializeToString(), PROTOBUF, MEDIA)
    assert from_json.images == from_protobuf.images == (Image(data=FILE),) * 2


@pytest.mark.parametrize("media", [MediaSettings(max_images=0), MediaSettings(max_bytes=1)])
def test_an_image_that_is_not_read_has_the_same_digest_in_both_formats(media: MediaSettings) -> None:
    fields = [{"data": ENCODED}, {"data": f"data:,{quote(FILE)}"}]
    from_json = wire.post_record(json.dumps({"id": "1", "images": fields}).encode(), (), media)
    message = post_pb2.Post(id="1", images=[post_pb2.Image(data=FILE)] * 2)
    assert from_json == wire.post(message, media)
    assert [image.problem is None for image in from_json.images] == [False, False]


@pytest.mark.parametrize("other", ["\udc00", "?"])
def test_images_that_are_refused_differ_as_they_were_sent(other: str) -> None:
    assert read("\ud800") != read(other)


@given(st.binary(min_size=1))
def test_any_bytes_come_back_from_both_encodings(file: bytes) -> None:
    for url in ("data:," + quote(file, safe=""), "data:;base64," + base64.b64encode(file).decode()):
        assert read("", url) == Image(data=file)


def test_a_large_data_url_takes_little_more_memory_than_its_text() -> None:
    size = 1 << 20
    url = "data:," + "%41" * size
    tracemalloc.start()
    assert len(read("", url).data or b"") == size
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(url)
