"""A verdict that is written can be read again unchanged. Any bytes are a verdict or a ValueError."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

import moderation
from moderation import wire
from moderation.types import Reason, Source, Timings, Verdict
from moderation.v1 import verdict_pb2
from tests.support.builders import FOREIGN_FIELDS, a_finding, a_verdict
from tests.support.wire_values import formats, headers, json_values, verdicts

TRACE = b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01"


@given(verdicts, formats)
def test_a_verdict_is_read_as_it_was_written(verdict: Verdict, format: wire.Format) -> None:
    value, headers = wire.verdict_record(verdict, format)
    message = wire.read_verdict(value, headers)
    assert message == wire.verdict_message(verdict)
    assert wire.verdict_from_message(message) == verdict


@given(verdicts | verdicts.map(lambda verdict: replace(verdict, timings=Timings(queue=float("nan")))))
def test_a_verdict_is_written_as_the_json_of_its_message(verdict: Verdict) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    value, _ = wire.verdict_record(verdict, "json", [("traceparent", f"00-{trace}-00f067aa0ba902b7-01".encode())])
    message = wire.verdict_message(verdict, trace)
    expected = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    assert json.loads(value) == expected


@given(st.integers(-(2**63), 2**63 - 1), formats)
def test_any_timestamp_of_a_producer_can_be_written(timestamp_ms: int, format: wire.Format) -> None:
    verdict = a_verdict(source=Source("posts", 0, 0, timestamp_ms))
    wire.read_verdict(*wire.verdict_record(verdict, format))


def test_the_message_adds_origin_and_version() -> None:
    message = wire.verdict_message(a_verdict())
    assert (message.origin, message.engine_version) == (verdict_pb2.ORIGIN_MODEL, moderation.__version__)


def test_a_verdict_continues_the_trace_of_its_post() -> None:
    post = [("traceparent", TRACE), ("tracestate", b"a=b"), ("cookie", b"x")]
    value, headers = wire.verdict_record(a_verdict(), "json", post)
    assert headers == [("content-type", b"application/json"), ("traceparent", TRACE), ("tracestate", b"a=b")]
    assert wire.read_verdict(value, headers).trace_id == "ab" * 16


def test_only_a_verdict_that_stands_has_an_identity_header() -> None:
    standing = a_verdict(findings=(a_finding(),))
    _, headers = wire.verdict_record(standing, "json")
    assert dict(headers)["verdict-identity"] == standing.identity.digest.encode()
    for other in (replace(standing, findings=()), replace(standing, reason=Reason.IMAGE_UNAVAILABLE)):
        assert [name for name, _ in wire.verdict_record(other, "json")[1]] == ["content-type"]


@pytest.mark.parametrize("trace", [b"", b"00-zz", None, b"\xff", TRACE + b"\n", TRACE + b"what a user wrote"])
def test_a_broken_trace_is_no_trace_and_goes_no_further(trace: bytes | None) -> None:
    value, headers = wire.verdict_record(a_verdict(), "json", [("traceparent", trace), ("tracestate", b"a=b")])
    assert wire.read_verdict(value, headers).trace_id == ""
    assert headers == [("content-type", b"application/json")]


def test_what_stands_behind_a_trace_goes_no_further() -> None:
    _, headers = wire.verdict_record(a_verdict(), "json", [("traceparent", TRACE + b"-what a user wrote")])
    assert headers == [("content-type", b"application/json"), ("traceparent", TRACE)]


@pytest.mark.parametrize("state", [b"", b"what a user wrote", b"a=b,c", b"a=\xff", b"a=" + b"x" * 257, b"a=b," * 200])
def test_a_broken_trace_state_goes_no_further(state: bytes) -> None:
    _, headers = wire.verdict_record(a_verdict(), "json", [("traceparent", TRACE), ("tracestate", state)])
    assert headers == [("content-type", b"application/json"), ("traceparent", TRACE)]


def test_fields_of_a_newer_version_are_no_error() -> None:
    value, headers = wire.verdict_record(a_verdict(), "json")
    newer = json.loads(value) | {"rationale": "..."}
    assert wire.read_verdict(json.dumps(newer).encode(), headers).post_id == "post-1"
    value, headers = wire.verdict_record(a_verdict(), "protobuf")
    assert wire.read_verdict(value + b"\xa2\x06\x01x", headers).post_id == "post-1"


def _json(**fields: Any) -> bytes:
    return json.dumps({"postId": "1", "outcome": "OUTCOME_ALLOW", "status": "STATUS_FINAL"} | fields).encode()


def _protobuf(**fields: Any) -> bytes:
    return verdict_pb2.Verdict(post_id="1", outcome=1, status=1, **fields).SerializeToString()  # type: ignore[arg-type]


def test_the_least_that_a_verdict_has() -> None:
    written: dict[wire.Format, bytes] = {"json": _json(), "protobuf": _protobuf()}
    for format, value in written.items():
        assert wire.read_verdict(value, [("content-type", wire.CONTENT_TYPES[format])]).post_id == "1"


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (b"", b"application/json"),
        (b"\xff", b"application/json"),
        (b"[" * 100_000, b"application/json"),
        (b"[1]", b"application/json"),
        (_json(outcome="OUTCOME_SHRUG"), b"application/json"),
        (_json(outcome=0), b"application/json"),
        (_json(status=9), b"application/json"),
        (_json(postId=""), b"application/json"),
        (_json(), b"text/plain"),
        (b"\x0a\xff", b"application/x-protobuf"),
        (verdict_pb2.Verdict(post_id="1").SerializeToString(), b"application/x-protobuf"),
        *((_protobuf(**fields), b"application/x-protobuf") for fields in FOREIGN_FIELDS),
    ],
)
def test_unreadable_verdicts(value: bytes, content_type: bytes) -> None:
    with pytest.raises(ValueError, match="not a moderation"):
        wire.read_verdict(value, [("content-type", content_type)])


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()), headers)
def test_any_bytes_are_a_verdict_or_a_value_error(value: bytes, headers: wire.Headers) -> None:
    try:
        wire.read_verdict(value, headers)
    except ValueError as error:
        assert str(error).startswith("not a moderation")
