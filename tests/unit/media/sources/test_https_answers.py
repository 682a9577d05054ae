"""Answers of web servers that are too much, too late, or not true."""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
import tracemalloc
import zlib
from collections.abc import Awaitable
from pathlib import Path

import pytest

from moderation.errors import PostError
from moderation.types import Detail, Problem, Reason
from tests.support.web_server import (
    NAME,
    Answer,
    WebServer,
    chunk,
    chunked,
    drips,
    endless,
    ends,
    hangs_after,
    ok,
    problem_of,
    to,
    unavailable,
    web_server,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

URL = f"https://{NAME}"


BOMB = gzip.compress(bytes(64 << 20))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ok(b"x" * 1001), id="a byte too many"),
        pytest.param(hangs_after(ok(b"", length=1 << 40)), id="a length too many"),
        pytest.param(endless(b"HTTP/1.1 200 OK\r\n\r\n"), id="without a length, endless"),
        pytest.param(endless(chunked(), chunk(b"x" * 65536)), id="endless chunks"),
        pytest.param(endless(chunked(), chunk(b"x")), id="endless chunks of a byte"),
        pytest.param(hangs_after(chunked() + b"ffffffffffff\r\n" + b"x" * 1001), id="a chunk of terabytes"),
        pytest.param(ok(BOMB, "Content-Encoding: gzip"), id="a gzip bomb"),
        pytest.param(chunked("Content-Encoding: gzip") + chunk(BOMB), id="a gzip bomb without a length"),
        pytest.param(chunked("Content-Encoding: deflate") + chunk(zlib.compress(bytes(64 << 20))), id="a zlib bomb"),
        pytest.param(chunked("Content-Encoding: zstd") + chunk(zstd.compress(bytes(64 << 20))), id="a zstd bomb"),
    ],
)
async def test_a_file_that_is_too_large_is_not_kept(server: WebServer, answer: Answer) -> None:
    server.answers["/"] = answer
    async with server.source(max_bytes=1000) as source:
        tracemalloc.start()
        started = time.monotonic()
        try:
            assert (await problem_of(source.read(f"{URL}/"))).reason is Reason.IMAGE_TOO_LARGE
            assert tracemalloc.get_traced_memory()[1] < 4 << 20, "memory grew with the file"
        finally:
            tracemalloc.stop()
    assert time.monotonic() - started < 2


async def test_a_file_of_the_largest_size_is_read(server: WebServer) -> None:
    server.answers |= {"/": ok(b"x" * 1000), "/z": ok(gzip.compress(b"x" * 1000), "Content-Encoding: gzip")}
    async with server.source(max_bytes=1000) as source:
        assert await source.read(f"{URL}/") == await source.read(f"{URL}/z") == b"x" * 1000


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(hangs_after(b""), id="no answer"),
        pytest.param(hangs_after(b"HTTP/1.1 200 OK\r\nContent-Le"), id="half a head"),
        pytest.param(hangs_after(ok(b"x", length=9)), id="half a file"),
        pytest.param(drips(b"HTTP/1.1 200 OK\r\nA: "), id="a head, byte by byte"),
        pytest.param(drips(b"HTTP/1.1 200 OK\r\n\r\n"), id="a file, byte by byte"),
        pytest.param(drips(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"), id="never more than a promise"),
        pytest.param(drips(chunked(), b"1;" + b"e" * 99), id="an endless extension of a chunk"),
        pytest.param(endless(chunked("Content-Encoding: gzip"), chunk(gzip.compress(b""))), id="endless, and empty"),
        pytest.param(hangs_after(chunked() + chunk(b"x") + b"0\r\n"), id="an end that does not end"),
    ],
)
async def test_a_slow_server_has_a_deadline(server: WebServer, answer: Answer) -> None:
    server.answers |= {"/": answer, "/a": ok(b"a")}
    async with server.source(https_timeout_s=0.4) as source:
        started = time.monotonic()
        slow = asyncio.create_task(_ended(source.read(f"{URL}/")))
        await server.asked.wait()
        assert await source.read(f"{URL}/a") == b"a", "others wait for it"
        assert await slow in ("TimeoutError", "IMAGE_UNAVAILABLE")
    assert time.monotonic() - started < 2


async def _ended(reading: Awaitable[bytes]) -> str:
    try:
        return f"{await reading!r}"
    except PostError as error:
        return error.reason
    except TimeoutError:
        return "TimeoutError"


async def test_no_deadline_is_longer_than_that_of_all_images(server: WebServer) -> None:
    server.answers["/"] = hangs_after(b"")
    async with server.source(https_timeout_s=60, timeout_s=0.2) as source:
        with pytest.raises(TimeoutError):
            await source.read(f"{URL}/")


async def test_the_deadline_is_for_all_redirects_together(server: WebServer) -> None:
    async def later(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(to("/"))
        await writer.drain()

    server.answers["/"] = later
    async with server.source(https_timeout_s=0.3) as source:
        with pytest.raises(TimeoutError):
            await source.read(f"{URL}/")
    assert len(server.heads) == 2


async def test_a_server_that_never_begins_tls_has_a_deadline(tmp_path: Path) -> None:
    async with web_server(tmp_path, tls=False) as server, server.source(https_timeout_s=0.2) as source:
        with pytest.raises(TimeoutError):
            await source.read(f"{URL}/")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ends(b"HTTP/1.1 200 OK\r\n\r\na picture"), id="without a length"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\na picture", id="an old server"),
        pytest.param(ends(b"HTTP/1.1 200 \r\n\r\na picture"), id="a status without words"),
        pytest.param(ends(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\na picture"), id="hints before it"),
        pytest.param(chunked() + b"".join(chunk(bytes([each])) for each in b"a picture") + b"0\r\n\r\n", id="chunks"),
        pytest.param(ok(b"a picture", "Content-Encoding: identity"), id="an encoding that is none"),
        pytest.param(ok(b"a picture", "Content-Encoding: unknown"), id="an encoding that nobody knows"),
        pytest.param(ok(gzip.compress(b"a picture"), "Content-Encoding: gzip"), id="gzip that nobody asked for"),
        pytest.param(ok(zlib.compress(b"a picture"), "Content-Encoding: deflate"), id="deflate that nobody asked for"),
        pytest.param(ok(b"a picture", status="203 By a proxy"), id="by a proxy"),
    ],
)
async def test_a_file_is_read_in_any_form_of_http(server: WebServer, answer: Answer) -> None:
    server.answers["/"] = answer
    async with server.source() as source:
        assert await source.read(f"{URL}/") == b"a picture"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ends(ok(b"a picture", length=10)), id="a byte less than promised"),
        pytest.param(ends(chunked() + chunk(b"a picture")), id="without its last chunk"),
        pytest.param(ends(chunked() + b"9\r\na pic"), id="half a chunk"),
        pytest.param(ends(chunked() + chunk(b"a picture") + b"zz\r\n"), id="a broken chunk"),
        pytest.param(ends(chunked("Content-Length: 9") + chunk(b"a picture")), id="a length and chunks"),
    ],
)
async def test_a_file_that_is_cut_is_not_taken_for_whole(server: WebServer, answer: Answer) -> None:
    server.answers["/"] = answer
    async with server.source() as source:
        assert await problem_of(source.read(f"{URL}/")) == unavailable()
    assert len(server.heads) <= 2


async def test_what_a_server_sends_too_much_answers_no_other_request(server: WebServer) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(ok(b"first"))
        await writer.drain()
        await asyncio.sleep(0.05)  # the client has read it by now, or the test shows less
        writer.write(ok(b"never asked for"))
        await writer.drain()
        await asyncio.Event().wait()

    server.answers |= {"/1": answer, "/2": ok(b"second")}
    async with server.source() as source:
        assert await source.read(f"{URL}/1") == b"first"
        await asyncio.sleep(0.1)
        assert await source.read(f"{URL}/2") == b"second"


async def test_bytes_behind_the_promised_length_are_no_part_of_the_file(server: WebServer) -> None:
    server.answers["/"] = ok(b"a picture and more", length=9)
    async with server.source() as source:
        assert await _ended(source.read(f"{URL}/")) in ("b'a picture'", "IMAGE_UNAVAILABLE")


async def test_a_transfer_that_ends_early_is_tried_again(server: WebServer) -> None:
    answers = iter([ok(b"a pic", length=9), ok(b"a picture")])

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(next(answers))
        await writer.drain()

    server.answers["/"] = answer
    async with server.source() as source:
        assert await source.read(f"{URL}/") == b"a picture"
    assert len(server.heads) == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ends(b""), id="nothing"),
        pytest.param(ends(ok(b"", length=9)), id="a head alone"),
        pytest.param(ends(b"SSH-2.0-OpenSSH_9.9\r\n"), id="another protocol"),
        pytest.param(ends(b"\x00" * 1000), id="no protocol"),
        pytest.param(ok(b"x", "Content-Length: 2"), id="two lengths"),
        pytest.param(ok(b"x" * 99, "Content-Encoding: gzip"), id="gzip that is none"),
        pytest.param(ok(b"x" * 99, "Content-Encoding: br"), id="an encoding that was not asked for"),
        pytest.param(ok(b"x").replace(b"h: 1", b"h: -1"), id="a negative length"),
        pytest.param(ok(b"x").replace(b"h: 1", b"h: x"), id="a length in letters"),
        pytest.param(ends(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 10_000 + b"\r\n"), id="too many headers"),
        pytest.param(ends(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n"), id="a long header"),
        pytest.param(endless(b"HTTP/1.1 200 OK\r\nA: "), id="an endless header"),
    ],
)
async def test_an_answer_that_is_none(server: WebServer, answer: Answer) -> None:
    server.answers["/"] = answer
    async with server.source() as source:
        assert await problem_of(source.read(f"{URL}/")) == unavailable()


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ("404 Not Found", Problem(Reason.IMAGE_NOT_FOUND)),
        ("410 Gone", Problem(Reason.IMAGE_NOT_FOUND)),
        *((status, unavailable(Detail.HTTP_STATUS)) for status in (
            "201 a", "204 b", "206 c", "300 d", "302 without a location", "304 e", "400 f", "401 g", "403 h", "418 i",
            "429 j", "451 k", "500 l", "502 m", "503 n", "599 o", "999 p",
        )),
    ],
)  # fmt: skip
async def test_a_status_has_its_reason(server: WebServer, status: str, problem: Problem) -> None:
    server.answers["/"] = ends(ok(b"" if status[:3] in ("204", "304") else b"a picture", status=status))
    async with server.source() as source:
        assert await problem_of(source.read(f"{URL}/")) == problem


async def test_a_server_that_is_away(server: WebServer) -> None:
    async with server.source({NAME: [("127.0.0.1", 1)]}) as source:
        assert await problem_of(source.read(f"{URL}/")) == unavailable()
