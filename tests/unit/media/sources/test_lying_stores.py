"""A store that lies, breaks off, refuses or is slow costs its own images, and ends no worker."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs

from moderation.media.fetching import Fetcher
from moderation.media.sources.object_stores import ObjectStores
from moderation.types import Image, Problem, Reason
from tests.support.builders import a_file, a_post
from tests.support.object_server import (
    KEY,
    Request,
    a_source,
    an_object_server,
    described,
    ranged,
    reason_of,
    refused,
    stores,
    whole,
)

FILE = a_file()


async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
    """A range without a length, whose chunks do not end."""
    if request.method == "HEAD":
        return described(writer, 1_000)
    ranged(request, writer, 1_000, Content_Length=None, Transfer_Encoding="chunked")
    while True:
        writer.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        await writer.drain()


async def short(request: Request, writer: asyncio.StreamWriter) -> None:
    """Half of the bytes, with their length."""
    if request.method == "HEAD":
        return described(writer, 1_000)
    ranged(request, writer, 1_000, Content_Length=500)
    return writer.write(bytes(500))


async def broken_off(request: Request, writer: asyncio.StreamWriter) -> None:
    """A few bytes, and then no connection; the same of what is left."""
    if request.method == "HEAD":
        return described(writer, 1_000)
    ranged(request, writer, 1_000)
    writer.write(bytes(100))
    return writer.close()


async def grown(request: Request, writer: asyncio.StreamWriter) -> None:
    """A small size at first, and later the first bytes of a larger object, under the same ETag."""
    if request.method == "HEAD":
        return described(writer, 10)
    ranged(request, writer, 1_000)
    return writer.write(bytes(10))


async def other(request: Request, writer: asyncio.StreamWriter) -> None:
    """Another version than If-Match asks for."""
    if request.method == "HEAD":
        return described(writer, 10)
    ranged(request, writer, 10, ETag='"2"')
    return writer.write(bytes(10))


async def without_range(request: Request, writer: asyncio.StreamWriter) -> None:
    described(writer, 10)
    if request.method == "GET":
        writer.write(bytes(10))


async def headers_without_end(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(5_000):
        writer.write(b"X-A: " + b"a" * 1_000 + b"\r\n")
        await writer.drain()
    writer.close()


async def no_http(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x89PNG\r\n\x1a\n" * 10)
    writer.close()


async def hanging_up(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.close()


LIES = [endless, short, broken_off, grown, other, without_range, headers_without_end, no_http, hanging_up]
SIGNATURE = b"<Error><Code>SignatureDoesNotMatch</Code><Message>secret</Message></Error>"


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
async def test_a_store_that_lies_or_breaks_off_costs_its_own_image(lie: Any) -> None:
    async with a_source(max_bytes=1 << 20) as (server, source):
        server.answers[f"/bucket/{KEY}"] = lie
        server.answers["/bucket/uploads/good.png"] = whole(FILE)
        with capture_logs() as events:
            async with asyncio.timeout(20):
                assert await reason_of(source) is Reason.IMAGE_UNAVAILABLE
            assert await source.read("s3://bucket/uploads/good.png") == FILE
    assert [(event["event"], event["store"]) for event in events] == [("image_store_failed", "pictures")]
    assert KEY not in str(events)


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (301, "a redirect to nowhere: the bucket is in another region"),
        (400, "status 400"),
        (401, "status 401"),
        (403, "status 403"),
        (429, "status 429"),
        (503, "status 503"),
    ],
)
async def test_a_store_that_refuses_is_logged_once_a_minute_without_the_key(status: int, cause: str) -> None:
    async with a_source() as (server, source):
        server.answers[f"/bucket/{KEY}"] = refused(status, SIGNATURE)
        with capture_logs() as events:
            for _ in range(3):
                assert await reason_of(source) is Reason.IMAGE_UNAVAILABLE
    assert events == [
        {"event": "image_store_failed", "store": "pictures", "cause": cause, "log_level": "warning"},
    ]


async def test_a_store_that_fails_for_a_moment_is_asked_again() -> None:
    async with a_source() as (server, source):

        async def moody(request: Request, writer: asyncio.StreamWriter) -> None:
            answer = whole(FILE) if len(server.requests) % 3 == 0 else refused(503)
            await answer(request, writer)

        server.answers[f"/bucket/{KEY}"] = moody
        assert await source.read(f"s3://bucket/{KEY}") == FILE
        assert server.methods(f"/bucket/{KEY}") == ["HEAD"] * 3 + ["GET"] * 3
        server.answers[f"/bucket/{KEY}"] = refused(503)
        assert await reason_of(source) is Reason.IMAGE_UNAVAILABLE
        assert len(server.requests) == 6 + 4, "one try and three more"


async def test_a_transfer_that_breaks_off_goes_on_where_it_was() -> None:
    async with a_source() as (server, source):

        async def breaking(request: Request, writer: asyncio.StreamWriter) -> None:
            if len(server.requests) != 2:
                return await whole(FILE)(request, writer)
            ranged(request, writer, len(FILE))
            writer.write(FILE[:50])
            return writer.close()

        server.answers[f"/bucket/{KEY}"] = breaking
        assert await source.read(f"s3://bucket/{KEY}") == FILE
        assert [request.range for request in server.requests[1:]] == [(0, len(FILE) - 1), (50, len(FILE) - 1)]
        assert {request.headers["if-match"] for request in server.requests[1:]} == {'"1"'}


async def test_a_slow_store_is_late_and_one_that_is_silent_is_too() -> None:
    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.method == "HEAD":
            return described(writer, 1_000)
        ranged(request, writer, 1_000)
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def silent(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with an_object_server() as server:
        server.answers |= {"/bucket/uploads/slow": slow, "/bucket/uploads/silent": silent}
        server.answers["/bucket/uploads/good"] = whole(FILE)
        fetcher = Fetcher(stores(endpoint=server.url, timeout_s=0.4))
        images = tuple(Image(uri=f"s3://bucket/uploads/{name}") for name in ("slow", "silent", "good"))
        fetched = await fetcher.fetch(a_post(images=images))
    assert fetched.files == {2: FILE}
    assert fetched.problems == {index: Problem(Reason.DEADLINE_EXCEEDED, f"images[{index}].uri") for index in range(2)}
    assert all(problem.limit for problem in fetched.problems.values()), "at least REVIEW"


async def test_a_server_whose_certificate_a_stranger_signed_is_not_asked(tmp_path: Path) -> None:
    ours, strangers = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    for authority, reasons in ((strangers, [Reason.IMAGE_UNAVAILABLE]), (ours, [])):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        async with an_object_server(context) as server:
            server.answers[f"/bucket/{KEY}"] = whole(FILE)
            source = ObjectStores(stores(endpoint=server.url, ca_file=tmp_path / "ca.pem"))
            if reasons:
                assert [await reason_of(source)] == reasons
                assert server.requests == []
            else:
                assert await source.read(f"s3://bucket/{KEY}") == FILE


async def test_a_store_with_tls_leads_to_no_address_without_it(tmp_path: Path) -> None:
    """As the metadata endpoints of machines are."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with an_object_server(context) as server, an_object_server() as metadata:
        metadata.answers[f"/bucket/{KEY}"] = whole(FILE)
        source = ObjectStores(stores(endpoint=server.url, ca_file=tmp_path / "ca.pem"))
        for status in (301, 302, 303, 307, 308):
            server.answers[f"/bucket/{KEY}"] = refused(status, Location=f"{metadata.url}/bucket/{KEY}")
            assert await reason_of(source) is Reason.IMAGE_UNAVAILABLE
    assert metadata.requests == []
