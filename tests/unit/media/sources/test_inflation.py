"""Objects that are kept compressed are what viewers see of them."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from moderation.types import Reason
from tests.support.builders import a_file
from tests.support.object_server import (
    KEY,
    a_source,
    reason_of,
    whole,
)

FILE = a_file()


async def test_a_compressed_object_is_what_viewers_see_of_it() -> None:
    async with a_source() as (server, source):
        for encoding, data in (
            ("gzip", gzip.compress(FILE)),
            ("aws-chunked, gzip", gzip.compress(FILE)),
            ("deflate", zlib.compress(FILE)),
            ("base64", FILE),
            ("identity", FILE),
        ):
            server.answers[f"/bucket/{KEY}"] = whole(data, Content_Encoding=encoding)
            assert await source.read(f"s3://bucket/{KEY}") == FILE, encoding


async def test_a_gzip_bomb_takes_no_more_than_the_limit() -> None:
    bomb = gzip.compress(bytes(64 << 20), 1)
    async with a_source(max_bytes=1 << 20) as (server, source):
        server.answers[f"/bucket/{KEY}"] = whole(bomb, Content_Encoding="gzip")
        assert len(bomb) < 1 << 20
        tracemalloc.start()
        assert await reason_of(source) is Reason.IMAGE_TOO_LARGE
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("gzip", Reason.IMAGE_CORRUPT),
        ("br", Reason.IMAGE_UNSUPPORTED),
        ("zstd", Reason.IMAGE_UNSUPPORTED),
        ("gzip, gzip", Reason.IMAGE_UNSUPPORTED),
    ],
)
async def test_what_cannot_be_inflated_has_its_reason(encoding: str, expected: Reason) -> None:
    async with a_source() as (server, source):
        server.answers[f"/bucket/{KEY}"] = whole(FILE, Content_Encoding=encoding)
        assert await reason_of(source) is expected
