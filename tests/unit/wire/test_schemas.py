"""The JSON Schemas beside the protos and moderation/wire accept the same JSON."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from moderation import wire
from moderation.errors import PostError
from moderation.media.reader import Media
from moderation.settings import MediaSettings, StoreSettings
from moderation.types import Reason
from tests.support.builders import a_file, a_verdict

PROTOS = Path(__file__).parents[3] / "protos" / "moderation" / "v1"
PIXEL = base64.b64encode(b"\xff\xfe\xfd\xfc").decode()


def schema(name: str) -> Draft202012Validator:
    content = json.loads((PROTOS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(content)
    return Draft202012Validator(content)


POST = schema("post")


def taken(post: Any) -> bool:
    """Whether the service takes all of a post."""
    try:
        read = wire.post_record(json.dumps(post).encode(), (), MediaSettings())
    except PostError:
        return False
    schemes = [image.uri.partition(":")[:2] for image in read.images if image.uri]
    files = all((scheme.lower(), colon) == ("file", ":") for scheme, colon in schemes)
    return files and not any(image.problem for image in read.images)


def test_a_written_verdict_is_valid_by_its_schema() -> None:
    value, _ = wire.verdict_record(a_verdict(), "json")
    schema("verdict").validate(json.loads(value))
    assert not schema("verdict").is_valid(json.loads(value) | {"outcome": "MAYBE"})


# A text of one character is as wide as the schema's rule assumes; a short one is within every limit.
TEXTS = st.text(max_size=20) | st.builds(
    lambda character, count: character * count,
    st.sampled_from("aé語😀\x00\x7f\x85\xa0"),
    st.sampled_from([0, 1, 32, 33, 42, 43, 64, 65, 128, 129, 170, 171, 256, 257, 512, 513, 1024, 1366, 2049, 4097]),
)
ENCODED = st.binary(max_size=9).filter(lambda file: not file.lower().startswith(b"data:")).map(base64.b64encode)
BASE64 = st.text("AZaz09+/-_=\r\n\t !,", max_size=12) | ENCODED.map(bytes.decode)
URLS = st.builds(
    "{}{}".format, st.sampled_from(["data:;base64,", "DATA:image/png;a=b;Base64,", "data:image/png"]), BASE64
)
OTHERS: st.SearchStrategy[Any] = st.none() | st.integers(0, 9) | st.booleans() | st.just([]) | st.just({})
IMAGES = st.fixed_dictionaries(
    {},
    optional={
        "data": BASE64 | URLS | OTHERS,
        "uri": TEXTS.map("File:{}".format)
        | TEXTS.filter(lambda uri: not uri.lower().startswith("data:"))
        | URLS
        | OTHERS,
        "alt": TEXTS | OTHERS,
    },
)
TEXT_FIELDS = dict.fromkeys(("id", "text", "tenant", "language", "surface", "txt"), TEXTS | OTHERS)
POSTS = st.fixed_dictionaries({}, optional=TEXT_FIELDS | {"images": st.lists(IMAGES | OTHERS, max_size=3) | OTHERS})


@given(st.builds(dict, POSTS, id=st.just("1")) | POSTS)
@settings(max_examples=500, deadline=None)
@example({"text": "no id"})
@example({"id": ""})
@example({"id": "i" * 512, "text": None, "images": None, "tenant": None})
@example({"id": "i" * 600})
@example({"id": "é" * 257})
@example({"id": "1\n"})
@example({"id": "1", "images": [{"data": PIXEL}, {"uri": "file:///a", "data": ""}], "language": "de"})
@example({"id": "1", "images": [{"data": "!!!"}]})
@example({"id": "1", "images": [{"data": "A"}, {"data": "AA="}]})
@example({"id": "1", "images": [{"data": "_+AA"}]})
@example({"id": "1", "images": [{"uri": f"data:image/png;base64,{PIXEL}"}, {"data": f"{PIXEL[:3]}\r\n{PIXEL[3:]}"}]})
@example({"id": "1", "images": [{"data": PIXEL, "uri": "file:///a"}]})
@example({"id": "1", "images": [None]})
@example({"id": "1", "txt": "x"})
@example([])
def test_the_schema_of_posts_refuses_what_the_service_does_not_take(post: Any) -> None:
    assert POST.is_valid(post) is taken(post)


@pytest.mark.parametrize("scheme", ["file://", "FILE:", "http://example.com", "https:", "s3:", ""])
async def test_the_schema_refuses_references_that_no_source_reads(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "a.png").write_bytes(a_file())
    post = {"id": "1", "images": [{"uri": f"{scheme}{tmp_path}/a.png"}]}
    settings = MediaSettings(roots=(tmp_path,))
    judged = wire.post_record(json.dumps(post).encode(), (), settings)
    async with Media(settings) as media, media.opened(judged) as read:
        forbidden = [problem.reason for problem in read.problems] == [Reason.IMAGE_FORBIDDEN]
    assert POST.is_valid(post) is not forbidden


@pytest.mark.parametrize("scheme", ["s3", "S3", "gs", "az"])
async def test_the_schema_takes_references_that_a_store_may_have(scheme: str) -> None:
    post = {"id": "1", "images": [{"uri": f"{scheme}://bucket/a key.png"}]}
    store = StoreSettings(url=f"{scheme}://bucket", account="shop", credentials="anonymous", endpoint="http://[::1]:1")
    settings = MediaSettings(stores={"pictures": store}, timeout_s=0.001)
    async with Media(settings).opened(wire.post_record(json.dumps(post).encode(), (), settings)) as read:
        assert Reason.IMAGE_FORBIDDEN not in [problem.reason for problem in read.problems], "the store was asked"
    assert POST.is_valid(post)


@pytest.mark.parametrize("scheme", ["https", "HTTPS"])
async def test_the_schema_takes_references_that_a_web_server_may_have(scheme: str) -> None:
    post = {"id": "1", "images": [{"uri": f"{scheme}://images.example.invalid/a key.png?b=c"}]}
    settings = MediaSettings(https_hosts=("images.example.invalid",), https_timeout_s=5)
    read_post = wire.post_record(json.dumps(post).encode(), (), settings)
    async with Media(settings) as media, media.opened(read_post) as read:
        assert Reason.IMAGE_FORBIDDEN not in [problem.reason for problem in read.problems], "the host was looked up"
    assert POST.is_valid(post)


@pytest.mark.parametrize("length", [65_536, 65_536 + 1])
def test_the_characters_of_a_long_file_are_checked(length: int) -> None:
    good = {"id": "1", "images": [{"data": "A" * length}]}
    assert POST.is_valid(good)
    assert not POST.is_valid({"id": "1", "images": [{"data": "A" * length + "!"}]})
