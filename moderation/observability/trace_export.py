"""Spans leave the process: OpenTelemetry's SDK, set up once for a role. Needs the extra `otel`."""

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
    """As the caller has decided; else so many of all traces. A step's own trace is there for posts that are seen."""

    def __init__(self, ratio: float) -> None:
        self._root = TraceIdRatioBased(ratio)
        self._step = TraceIdRatioBased(1.0)

    def should_sample(  # noqa: PLR0913, PLR0917  so says Sampler
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
    """What makes spans; nothing takes them yet."""
    return TracerProvider(
        sampler=ParentBased(Ratio(settings.sample_ratio)),
        resource=Resource.create({"service.name": f"moderation-{role}", "service.version": moderation.__version__}),
        span_limits=SpanLimits(max_links=1024),  # posts of a step
        shutdown_on_exit=False,  # the caller does, within a deadline
    )


def start(settings: TracesSettings, role: str) -> Callable[[], None]:
    """From now on spans go to the endpoint, from a thread. Returns what sends the last ones."""
    ours = provider(settings, role)
    base = settings.endpoint.rstrip("/")
    ours.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(base if base.endswith(PATH) else base + PATH)))
    trace.set_tracer_provider(ours)

    def stop() -> None:
        ours.force_flush(FLUSH_MS)
        ours.shutdown()

    return stop
