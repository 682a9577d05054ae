"""The references for callers are as the code is, and describe the records that the code writes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import MessageToJson
from jsonschema import Draft202012Validator

from moderation import wire
from moderation.kafka.records import KEY_BYTES, Record
from moderation.settings import KafkaSettings, MediaSettings
from moderation.types import Detail, Problem, Reason, Source
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.post_pb2 import Post
from moderation.worker.messages import dead_letter
from tests.support.builders import a_finding, a_verdict

PROTOS = Path(__file__).parents[3] / "protos"
SOURCE = Source("posts", 2, 7, 1234)
TRACE = [("traceparent", b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01"), ("tracestate", b"a=b")]
DOCUMENT = yaml.safe_load((PROTOS / "asyncapi.yaml").read_text())
CONTENT_TYPES = DOCUMENT["components"]["messages"]["post"]["headers"]["properties"]["content-type"]["enum"]
# The parts of AsyncAPI 3.0's own schema that this document uses.
SCHEMA = {
    "type": "object",
    "required": ["asyncapi", "info", "channels", "operations", "components"],
    "additionalProperties": False,
    "properties": {
        "asyncapi": {"const": "3.0.0"},
        "info": {"type": "object", "required": ["title", "version"]},
        "defaultContentType": {"type": "string"},
        "channels": {"additionalProperties": {"$ref": "#/$defs/channel"}},
        "operations": {"additionalProperties": {"$ref": "#/$defs/operation"}},
        "components": {
            "properties": {"messages": {"additionalProperties": {"$ref": "#/$defs/message"}}},
            "additionalProperties": False,
        },
    },
    "$defs": {
        "reference": {
            "type": "object",
            "required": ["$ref"],
            "properties": {"$ref": {"type": "string"}},
            "additionalProperties": False,
        },
        "channel": {
            "required": ["address", "messages"],
            "properties": {
                "address": {"type": "string"},
                "description": {"type": "string"},
                "messages": {"additionalProperties": {"$ref": "#/$defs/reference"}},
                "bindings": {"type": "object"},
            },
            "additionalProperties": False,
        },
        "operation": {
            "required": ["action", "channel"],
            "properties": {
                "action": {"enum": ["send", "receive"]},
                "channel": {"$ref": "#/$defs/reference"},
                "messages": {"type": "array", "items": {"$ref": "#/$defs/reference"}},
            },
            "additionalProperties": False,
        },
        "message": {
            "properties": {
                "summary": {"type": "string"},
                "headers": {"$ref": "https://json-schema.org/draft/2020-12/schema"},
                "payload": {
                    "required": ["schemaFormat", "schema"],
                    "properties": {"schemaFormat": {"type": "string"}, "schema": {"$ref": "#/$defs/reference"}},
                    "additionalProperties": False,
                },
                "bindings": {"type": "object"},
            },
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", PROTOS / "reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["asyncapi.yaml", "reason-codes.md"])
def test_committed_references_are_current(reference: ModuleType, name: str) -> None:
    assert (PROTOS / name).read_text(encoding="utf-8") == reference.FILES[name](), "run make reference"


def test_every_reason_has_a_meaning_and_a_remedy(reference: ModuleType) -> None:
    assert set(reference.REASONS) == set(Reason)
    assert set(reference.DETAILS) == set(Detail)
    names = {value.name.removeprefix("ERROR_REASON_") for value in pb.ErrorReason.DESCRIPTOR.values}
    assert set(reference.ERRORS) == names - {"UNSPECIFIED"}


def test_the_reasons_say_which_make_a_dead_letter_and_which_a_review() -> None:
    rows = [line.split(" | ") for line in (PROTOS / "reason-codes.md").read_text().splitlines() if line[:2] == "| "]
    told = {row[0].strip("| `"): (row[3], row[4].strip(" |")) for row in rows if len(row) == 5}
    assert set(told) == {"reason", "---", *Reason}
    assert told[Reason.IMAGE_CORRUPT] == ("yes", "yes")
    assert told[Reason.IMAGE_FORBIDDEN] == ("yes", "no")
    assert told[Reason.TEXT_TOO_LONG] == ("no", "yes")
    assert told[Reason.DEADLINE_EXCEEDED] == ("yes", "of pictures")
    assert told[Reason.NO_ANSWER] == told[Reason.MODEL_CHANGED] == ("no", "no")


def test_the_asyncapi_document_is_valid() -> None:
    Draft202012Validator(SCHEMA).validate(DOCUMENT)
    assert set(DOCUMENT["components"]["messages"]) == {
        name for channel in DOCUMENT["channels"].values() for name in channel["messages"]
    }


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


@pytest.mark.parametrize("target", sorted(set(references(DOCUMENT))))
def test_a_reference_points_to_something(target: str) -> None:
    file, _, pointer = target.partition("#")
    node: Any = json.loads((PROTOS / file).read_text()) if file else DOCUMENT
    for part in pointer.split("/")[1:]:
        node = node[part]
    assert node


def check_record(message: str, value: bytes | None, headers: wire.Headers) -> None:
    """A record is as its message in the document says; every header is described."""
    described = DOCUMENT["components"]["messages"][message]
    texts = {name: (text or b"").decode() for name, text in headers}
    Draft202012Validator(described["headers"] | {"additionalProperties": False}).validate(texts)
    if "payload" in described:
        schema = json.loads((PROTOS / described["payload"]["schema"]["$ref"]).read_text())
        Draft202012Validator(schema).validate(json.loads(value or b""))


def test_a_verdict_is_as_the_document_says() -> None:
    verdict = a_verdict(findings=(a_finding(),))
    assert verdict.stands
    check_record("verdict", *wire.verdict_record(verdict, "json", TRACE))


def test_an_erasure_is_as_the_document_says() -> None:
    erasure = wire.erasure("post-1", SOURCE, (), 1_700_000_000_000)
    check_record("erasure", None, wire.erasure_headers(erasure, SOURCE))
    check_record("erasureRequest", None, wire.copy_headers(erasure))
    copied = wire.erasure("post-1", SOURCE, wire.copy_headers(erasure), 0)
    assert copied.copied
    check_record("erasure", None, wire.erasure_headers(copied, SOURCE))


@pytest.mark.parametrize(
    "record",
    [
        Record("posts", 2, 7, 1234, b"post-1", b"{", ()),
        Record("posts", 2, 7, 1234, None, None, ()),
        Record("posts", 2, 7, 1234, b"post-1", b"x" * 4096, (), marks=("headers.escaped",)),
        Record("posts", 2, 7, 1234, b"k" * (KEY_BYTES + 1), b"x" * 4096, [("dlq.x", b"y" * 4096)]),
    ],
)
@pytest.mark.parametrize("detail", [None, Detail.NOT_JSON])
def test_a_dead_letter_is_as_the_document_says(record: Record, detail: Detail | None) -> None:
    problem = Problem(Reason.NOT_DECODABLE, detail=detail)
    message = dead_letter(SOURCE, record, problem, KafkaSettings(max_dead_letter_bytes=1024))
    assert message.cut
    for letter in (message, message.cut()):
        check_record("deadLetter", letter.value, letter.headers)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
def test_a_post_of_each_content_type_can_be_read(content_type: str) -> None:
    message = Post(id="1", text="x")
    value = MessageToJson(message).encode() if content_type.endswith("json") else message.SerializeToString()
    headers = [("content-type", content_type.encode()), *TRACE]
    assert wire.post_record(value, headers, MediaSettings()).id == "1"
    if content_type.endswith("json"):
        check_record("post", value, headers)
