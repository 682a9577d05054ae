"""One trace goes from the caller to the verdict: a real client, API, topic and worker, with OpenTelemetry's SDK."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from moderation.client import CallError, Client
from moderation.observability import trace_export
from moderation.settings import TracesSettings
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.post_pb2 import Image, Post
from tests.support.harness import Harness, a_value, running
from tests.support.lookups import Api

CALL = "moderation.v1.ModerationService/ModeratePost"
UNSAID = "a sentence that no trace may hold"
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Spans:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(self._exporter.get_finished_spans())

    def only(self, name: str, kind: SpanKind | None = None) -> ReadableSpan:
        """The only one of this name."""
        (match,) = [span for span in self if span.name == name and kind in (None, span.kind)]
        return match

    def below(self, parent: ReadableSpan) -> list[ReadableSpan]:
        return [
            span for span in self if span.parent and parent.context and span.parent.span_id == parent.context.span_id
        ]


def set_up(monkeypatch: pytest.MonkeyPatch, ratio: float) -> Spans:
    """Sets up the SDK as `trace_export.start` does, with an exporter that keeps the spans."""
    kept = InMemorySpanExporter()
    provider = trace_export.provider(TracesSettings(sample_ratio=ratio), "test")
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return Spans(kept)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """All spans, also those without a caller's decision."""
    return set_up(monkeypatch, 1.0)


def trace_of(span: ReadableSpan) -> str:
    assert span.context
    return f"{span.context.trace_id:032x}"


def id_of(span: ReadableSpan) -> str:
    assert span.context
    return f"{span.context.span_id:016x}"


async def test_one_trace_from_the_client_to_the_verdict(harness: Harness, tmp_path: Path, spans: Spans) -> None:
    api = Api(harness.kafka, *harness.topics[:2], tmp_path)
    async with running(harness), api.running(), Client(api.address) as client:
        with trace.get_tracer("caller").start_as_current_span("caller"):
            response = await client.moderate(Post(id="post-1", text=UNSAID), timeout=60)
        assert response.state == pb.LOOKUP_STATE_FOUND
        (record,) = await harness.read(harness.topics[1], 1)
    posts = harness.topics[0]
    caller, process = spans.only("caller"), spans.only(f"process {posts}")
    chain = [
        caller,
        spans.only(CALL, SpanKind.CLIENT),
        spans.only(CALL, SpanKind.SERVER),
        spans.only(f"send {posts}"),
        process,
    ]
    for parent, child in itertools.pairwise(chain):
        assert child in spans.below(parent), f"{child.name} is not below {parent.name}"
    assert [span.kind for span in chain[3:]] == [SpanKind.PRODUCER, SpanKind.CONSUMER]
    for span, operation in zip(chain[3:], ("send", "process"), strict=True):
        named = {name: value for name, value in (span.attributes or {}).items() if name.startswith("messaging.")}
        assert named["messaging.operation.name"] == named["messaging.operation.type"] == operation
        assert named["messaging.destination.name"] == posts
    host, _, port = api.address.rpartition(":")
    called = chain[1].attributes or {}
    assert (called["server.address"], called["server.port"]) == (host, int(port))

    phases = {span.name: span for span in spans.below(process)}
    assert sorted(phases) == ["batch_wait", "commit", "encode", "model"]
    assert process.start_time
    assert process.end_time
    for span in phases.values():
        assert span.start_time
        assert span.end_time
        assert process.start_time <= span.start_time <= span.end_time <= process.end_time

    (step,) = [span for span in spans if span.name == "model step"]
    assert [link.context for link in step.links] == [process.context]
    assert [link.context for link in phases["model"].links] == [step.context]
    assert step.parent is None

    version, trace_id, span_id, flags = (dict(record.headers)["traceparent"] or b"").decode().split("-")
    assert (version, trace_id, span_id) == ("00", trace_of(caller), id_of(process))
    assert int(flags, 16) & 1  # sampled
    assert json.loads(record.value)["traceId"] == response.verdict.trace_id == trace_of(caller)
    assert (process.attributes or {})["moderation.outcome"] == "ALLOW"
    assert {trace_of(span) for span in spans} == {trace_of(caller), trace_of(step)}
    assert UNSAID not in "".join(span.to_json() for span in spans)


async def test_an_error_is_traced_as_a_code_and_never_as_a_text(harness: Harness, tmp_path: Path, spans: Spans) -> None:
    api = Api(harness.kafka, *harness.topics[:2], tmp_path)
    async with running(harness), api.running(), Client(api.address) as client:
        bad = Post(id="post-1", images=[Image(uri=f"http://secret.example.com/{UNSAID}.png")])
        await client.moderate(bad, timeout=60)
        with pytest.raises(CallError):
            await client.moderate(Post(id="", text=UNSAID), timeout=60)
    process = spans.only(f"process {harness.topics[0]}")
    assert process.status.status_code is StatusCode.ERROR
    assert (process.attributes or {})["error.type"] == "IMAGE_FORBIDDEN"
    assert (process.attributes or {})["moderation.problem"] == "images[0].uri: scheme"
    refused = [span for span in spans if (span.attributes or {}).get("rpc.response.status_code") == "INVALID_ARGUMENT"]
    # A mistake of the caller is an error of the call, and not of the server.
    assert {span.kind: span.status.status_code for span in refused} == {
        SpanKind.SERVER: StatusCode.UNSET,
        SpanKind.CLIENT: StatusCode.ERROR,
    }
    assert ["error.type" in (span.attributes or {}) for span in refused] == [False, True]
    exported = "".join(span.to_json() for span in spans)
    assert "secret" not in exported
    assert UNSAID not in exported
    assert not any(span.events for span in spans)  # an exception would be one, with its text


@pytest.mark.parametrize(("flags", "seen"), [("01", True), ("00", False)])
async def test_a_callers_sampling_decision_is_kept(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, flags: str, seen: bool
) -> None:
    spans = set_up(monkeypatch, 0.0 if seen else 1.0)
    headers = [("traceparent", f"00-{TRACE}-b7ad6b7169203331-{flags}".encode()), ("tracestate", b"vendor=1")]
    async with running(harness):
        await harness.produce((0, b"key", a_value(1), headers))
        (record,) = await harness.read(harness.topics[1], 1)
    written = dict(record.headers)
    version, trace_id, parent, decided = (written["traceparent"] or b"").decode().split("-")
    assert (version, trace_id, decided, written["tracestate"]) == ("00", TRACE, flags, b"vendor=1")
    assert parent != "b7ad6b7169203331"
    assert json.loads(record.value)["traceId"] == TRACE
    assert {span.name for span in spans} == (
        {f"process {harness.topics[0]}", "encode", "batch_wait", "model", "commit", "model step"} if seen else set()
    )


async def test_a_post_without_a_trace_starts_one(harness: Harness, spans: Spans) -> None:
    async with running(harness):
        await harness.post(20)
        verdicts = await harness.expect_exactly(20)
    traces = {trace_of(span) for span in spans if span.name == f"process {harness.topics[0]}"}
    assert len(traces) == 20
    assert {verdict["traceId"] for verdict in verdicts} == traces
    linked = [link.context.span_id for span in spans if span.name == "model step" for link in span.links]
    assert len(linked) == len(set(linked)) == 20
