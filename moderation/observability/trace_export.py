"""Sends spans to a collector: sets up OpenTelemetry's SDK, once for a role. Needs the extra `otel`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

import moderation
from moderation.observability.traces import STEP
from moderation.settings import TracesSettings

PATH = "/v1/traces"
FLUSH_MS = 3_000


class Ratio(Sampler):
    """Follows the caller's decision. Without a caller, samples a share of all traces.

    The trace of a device step is always sampled: it starts only if a post of the step is sampled.
    """

    def __init__(self, ratio: float) -> None:
        self._root = TraceIdRatioBased(ratio)
        self._step = TraceIdRatioBased(1.0)

    def should_sample(  # noqa: PLR0913, PLR0917  the signature of Sampler
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """See Sampler."""
        sampler = self._step if name == STEP else self._root
        return sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """See Sampler."""
        return f"Ratio({self._root.get_description()})"


def provider(settings: TracesSettings, role: str) -> TracerProvider:
    """A provider of spans, which are not sent anywhere yet."""
    return TracerProvider(
        sampler=ParentBased(Ratio(settings.sample_ratio)),
        resource=Resource.create({"service.name": f"moderation-{role}", "service.version": moderation.__version__}),
        span_limits=SpanLimits(max_links=1024),  # of a step to its posts
        shutdown_on_exit=False,  # the caller shuts it down, within a deadline
    )


def start(settings: TracesSettings, role: str) -> Callable[[], None]:
    """Sends spans to the endpoint from now on, on a thread. Returns a function that sends the last spans and stops."""
    spans = provider(settings, role)
    base = settings.endpoint.rstrip("/")
    spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(base if base.endswith(PATH) else base + PATH)))
    trace.set_tracer_provider(spans)

    def stop() -> None:
        spans.force_flush(FLUSH_MS)
        spans.shutdown()

    return stop
