"""Object stores: only what lies below a listed URL is read, and one version of it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from moderation.media.fetching import Fetcher
from moderation.media.sources.object_stores import ObjectStores
from moderation.settings import MediaSettings, StoreSettings
from moderation.types import Detail, Image, Problem, Reason
from tests.support.builders import a_file, a_post
from tests.support.object_server import (
    KEY,
    Request,
    a_source,
    an_object_server,
    reason_of,
    stores,
    whole,
)

FILE = a_file()


async def test_the_size_is_asked_first_and_then_the_bytes_of_that_version() -> None:
    async with a_source() as (server, source):
        server.answers[f"/bucket/{KEY}"] = whole(FILE, etag='"version"')
        assert await source.read(f"S3://bucket/{KEY}") == FILE
    asked, got = server.requests
    assert (asked.method, got.method) == ("HEAD", "GET")
    assert (got.headers["if-match"], got.range) == ('"version"', (0, len(FILE) - 1))


FORBIDDEN = [
    "s3://bucket",
    "s3://bucket/",
    "s3://bucket/uploads",
    "s3://bucket/uploads/",
    "s3://bucket/picture.png",
    "s3://bucket/uploads-2/picture.png",
    "s3://bucket/Uploads/picture.png",
    "s3://bucket/private/picture.png",
    "s3://bucket/uploads/../private/picture.png",
    "s3://bucket/uploads/./picture.png",
    "s3://bucket/uploads//picture.png",
    "s3://bucket//uploads/picture.png",
    "s3://bucket/uploads/picture.png/",
    "s3://bucket/uploads/a\0b",
    "s3://bucket/uploads/a\r\nb",
    "s3://bucket/uploads/\x7f",
    "s3://other/uploads/picture.png",
    "s3://Bucket/uploads/picture.png",
    "s3://bucket.example.org/uploads/picture.png",
    "s3://user:secret@bucket/uploads/picture.png",
    "s3://bucket@other/uploads/picture.png",
    "s3://bucket:80/uploads/picture.png",
    "s3://bucket?x/uploads/picture.png",
    "s3://bucket#/uploads/picture.png",
    "s3://bucket\\uploads/picture.png",
    "s3://169.254.169.254/uploads/picture.png",
    "s3://[::1]/uploads/picture.png",
    "s3:///uploads/picture.png",
    "s3:bucket/uploads/picture.png",
    "s3:/bucket/uploads/picture.png",
    "s3:////bucket/uploads/picture.png",
    "s3:// bucket/uploads/picture.png",
    "gs://bucket/uploads/picture.png",
    "az://bucket/uploads/picture.png",
]


@pytest.mark.parametrize("uri", FORBIDDEN)
async def test_nothing_but_what_lies_below_the_url_is_asked_for(uri: str) -> None:
    async with a_source() as (server, source):
        assert await reason_of(source, uri) is Reason.IMAGE_FORBIDDEN
        assert server.requests == []


@hypothesis(max_examples=30, deadline=None)
@given(st.text(alphabet="ab/.%2eE\\?#@:[]~ \n\0é℀\u202e").map("s3://bucket/uploads/".__add__))
def test_no_key_leads_out_of_the_prefix(uri: str) -> None:
    async def read() -> list[str]:
        async with a_source() as (server, source):
            await reason_of(source, uri)
            return [request.path for request in server.requests]

    for path in asyncio.run(read()):
        assert path.startswith("/bucket/uploads/")
        assert not {"", ".", ".."} & set(path.removeprefix("/").split("/"))


@pytest.mark.parametrize("name", ["a b.png", "100%.png", "a%2fb", "ü.png", "a?versionId=1", "a#b", "a+b", "a[1]~!.png"])
async def test_a_key_is_taken_as_it_is_written(name: str) -> None:
    async with a_source() as (server, source):
        assert await reason_of(source, f"s3://bucket/uploads/{name}") is Reason.IMAGE_NOT_FOUND
        (request,) = server.requests
        assert request.path == f"/bucket/uploads/{name}"


async def test_the_store_with_the_longest_prefix_is_asked() -> None:
    async with an_object_server() as outer, an_object_server() as inner:
        media = MediaSettings(
            stores={
                "all": StoreSettings(url="s3://bucket", endpoint=outer.url, credentials="anonymous"),
                "some": StoreSettings(url="s3://bucket/a/b", endpoint=inner.url, credentials="anonymous"),
            }
        )
        source = ObjectStores(media)
        for key in ("a/b/c", "a/bc", "a/b"):
            assert await reason_of(source, f"s3://bucket/{key}") is Reason.IMAGE_NOT_FOUND
        assert [[request.path for request in server.requests] for server in (inner, outer)] == [
            ["/bucket/a/b/c"],
            ["/bucket/a/bc", "/bucket/a/b"],
        ]


async def test_a_scheme_is_read_where_a_store_has_it() -> None:
    posts = [a_post(images=(Image(uri=f"{scheme}://bucket/uploads/a"),)) for scheme in ("s3", "gs", "az")]
    async with an_object_server() as server:
        fetcher = Fetcher(stores(endpoint=server.url, url="gs://bucket/uploads"))
        problems = [(await fetcher.fetch(post)).problems[0] for post in posts]
    scheme = Problem(Reason.IMAGE_FORBIDDEN, "images[0].uri", Detail.SCHEME)
    assert problems == [scheme, Problem(Reason.IMAGE_NOT_FOUND, "images[0].uri"), scheme]


async def test_a_large_object_is_not_read() -> None:
    async with a_source(max_bytes=100) as (server, source):
        server.answers[f"/bucket/{KEY}"] = whole(b"x" * 101)
        assert await reason_of(source) is Reason.IMAGE_TOO_LARGE
        assert server.methods(f"/bucket/{KEY}") == ["HEAD"]
        server.answers[f"/bucket/{KEY}"] = whole(b"x" * 100)
        assert len(await source.read(f"s3://bucket/{KEY}")) == 100
        server.answers[f"/bucket/{KEY}"] = whole(b"")
        assert await source.read(f"s3://bucket/{KEY}") == b""


async def test_what_was_asked_is_what_is_read_when_the_object_changes() -> None:
    async with a_source() as (server, source):
        answers = iter([whole(b"old"), whole(FILE, etag='"2"'), whole(FILE, etag='"2"'), whole(FILE, etag='"2"')])

        async def changing(request: Request, writer: asyncio.StreamWriter) -> None:
            await next(answers)(request, writer)

        server.answers[f"/bucket/{KEY}"] = changing
        assert await source.read(f"s3://bucket/{KEY}") == FILE
        assert server.methods(f"/bucket/{KEY}") == ["HEAD", "GET", "HEAD", "GET"]


async def test_an_object_that_changes_all_the_time_is_given_up() -> None:
    async with a_source() as (server, source):

        async def changing(request: Request, writer: asyncio.StreamWriter) -> None:
            await whole(FILE, etag=f'"{len(server.requests)}"')(request, writer)

        server.answers[f"/bucket/{KEY}"] = changing
        assert await reason_of(source) is Reason.IMAGE_UNAVAILABLE
        assert len(server.requests) == 6
