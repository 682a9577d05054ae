"""Traces: every span, named once. One trace goes from a caller of the API, or from who put the post on its topic, over
the worker to the verdict, whose record carries it on.

This uses OpenTelemetry's API alone. While nobody has set up its SDK (`trace_export.py` does where the settings name a
collector, and so may a program that uses `moderation.client`) all of this is one look at a provider, and what callers
hand over is passed on as it came.

Spans hold ids, positions, codes and the types of errors; never content, never an exception's text. Baggage is not
passed on: it could be anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    TracerProvider,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import moderation
from moderation.observability.phases import Phase
from moderation.types import Source, Status, Verdict

__all__ = ["Span", "SpanContext"]

PROCESS = "process posts"  # a post in the worker, from its record to its commit; inside it, a span for each phase
STEP = "model step"  # a step of the device, linked to the posts in it; a trace of its own
SEND = "send posts"  # the API puts a post on its topic
# A call of the API is named after its method, on both sides: moderation.v1.ModerationService/GetVerdict

FIELDS = ("traceparent", "tracestate")
Carried = list[tuple[str, bytes]]  # a trace, as the headers of a record carry it

_PROPAGATOR = TraceContextTextMapPropagator()
_NOTHING: AbstractContextManager[None] = nullcontext()


def tracer() -> Tracer | None:
    """None: nobody wants spans."""
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, ProxyTracerProvider) else _tracer(provider)


@lru_cache(maxsize=1)
def _tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("moderation", moderation.__version__)


def ids() -> tuple[str, str] | None:
    """Trace and span that this is logged in."""
    context = trace.get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else None


# The worker


def received(source: Source, headers: Iterable[tuple[str, bytes | None]], group: str) -> Span | None:
    """The span of a post, which goes on with the trace in its record's headers. Ended by `committed` or `dropped`."""
    if (ours := tracer()) is None:
        return None
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.destination.name": source.topic,
        "messaging.destination.partition.id": str(source.partition),
        "messaging.kafka.offset": source.offset,
        "messaging.consumer.group.name": group,
    }
    parent = _PROPAGATOR.extract(_texts(headers), context=Context())
    return ours.start_span(PROCESS, parent, SpanKind.CONSUMER, attributes)


def current(span: Span | None) -> AbstractContextManager[Span | None]:
    """Inside, spans are its children and logs name it."""
    return _NOTHING if span is None else trace.use_span(span, record_exception=False, set_status_on_exception=False)


def onward(span: Span | None, headers: Sequence[tuple[str, bytes | None]]) -> Sequence[tuple[str, bytes | None]]:
    """The headers of a post with the trace that its verdict is to carry on."""
    if span is None:
        return headers
    rest = [(name, value) for name, value in headers if name not in FIELDS]
    return rest + carried(trace.set_span_in_context(span, Context()))


def judged(span: Span, verdict: Verdict) -> None:
    """What has come of the post."""
    span.set_attributes(
        {
            "moderation.post.id": verdict.post_id,
            "moderation.outcome": verdict.outcome.name,
            "moderation.status": verdict.status.name,
            "moderation.origin": verdict.origin.name,
        }
    )
    if verdict.status is Status.UNDETERMINED:
        span.set_status(StatusCode.ERROR)
        span.set_attribute("error.type", str(verdict.reason or "undetermined"))


def committed(span: Span, ready: float, done: float) -> None:
    """Its verdict is on its topic: ready and done by time.perf_counter."""
    if (ours := tracer()) is not None:
        context = trace.set_span_in_context(span, Context())
        ours.start_span(Phase.COMMIT.value, context, start_time=_ns(ready)).end(_ns(done))
    span.end()


def dropped(span: Span) -> None:
    """It has no outcome here: its partition was given away, or the process ends."""
    span.set_attribute("moderation.dropped", value=True)
    span.end()


def phase(phase: Phase, begun: float, done: float, step: SpanContext | None = None) -> None:
    """A phase of the current post is over; times by time.perf_counter. `step`: the one that it was in."""
    ours = tracer()
    if ours is not None and trace.get_current_span().is_recording():
        links = [Link(step)] if step else []
        ours.start_span(phase.value, start_time=_ns(begun), links=links).end(_ns(done))


def recorded() -> SpanContext | None:
    """The current span, if it will be seen."""
    span = trace.get_current_span()
    return span.get_span_context() if span.is_recording() else None


def stepped(posts: Sequence[SpanContext], begun: float, size: Mapping[str, int]) -> SpanContext | None:
    """A step is over that these posts were in: seen if one of them is. Begun by time.perf_counter."""
    ours = tracer()
    if ours is None or not posts:
        return None
    attributes = {f"moderation.step.{name}": count for name, count in size.items()}
    links = [Link(post) for post in {post.span_id: post for post in posts}.values()]
    span = ours.start_span(STEP, Context(), attributes=attributes, links=links, start_time=_ns(begun))
    span.end()
    return span.get_span_context()


# Calls, on both sides


class Called(Protocol):
    """What gRPC says of a call that came to us."""

    def invocation_metadata(self) -> Any:
        """Pairs, or None."""


def serving(service: str, method: str, call: Called) -> AbstractContextManager[Span | None]:
    """A call that came to us."""
    if (ours := tracer()) is None:
        return _NOTHING
    given = {name: value for name, value in call.invocation_metadata() or () if name in FIELDS}
    return _call(ours, f"{service}/{method}", SpanKind.SERVER, _PROPAGATOR.extract(given, context=Context()))


def calling(service: str, method: str) -> AbstractContextManager[Span | None]:
    """A call of ours."""
    ours = tracer()
    return _NOTHING if ours is None else _call(ours, f"{service}/{method}", SpanKind.CLIENT, None)


def _call(ours: Tracer, name: str, kind: SpanKind, parent: Context | None) -> AbstractContextManager[Span]:
    attributes = {"rpc.system.name": "grpc", "rpc.method": name}
    return ours.start_as_current_span(
        name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
    )


def ended(span: Span | None, code: str) -> None:
    """The status of a call."""
    if span is not None:
        span.set_attribute("rpc.response.status_code", code)
        if code != "OK":
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", code)


def metadata() -> list[tuple[str, str]]:
    """The current trace, for a call of ours."""
    given: dict[str, str] = {}
    _PROPAGATOR.inject(given)
    return list(given.items())


@contextmanager
def sending(topic: str, post_id: str, headers: Sequence[tuple[str, bytes]]) -> Iterator[Sequence[tuple[str, bytes]]]:
    """A post that is put on its topic; gives the headers that it is to carry: `headers`, where nobody wants spans."""
    if (ours := tracer()) is None:
        yield headers
        return
    attributes = {
        "messaging.system": "kafka",
        "messaging.operation.type": "send",
        "messaging.destination.name": topic,
        "moderation.post.id": post_id,
    }
    with ours.start_as_current_span(
        SEND, None, SpanKind.PRODUCER, attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield carried()
        except Exception as error:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", type(error).__name__)
            raise


def carried(context: Context | None = None) -> Carried:
    """The trace of the context, or of now, as headers."""
    given: dict[str, str] = {}
    _PROPAGATOR.inject(given, context)
    return [(name, value.encode()) for name, value in given.items()]


def _texts(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """Those of a trace: the first of a name counts, as in the verdict."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in FIELDS and value is not None:
            found.setdefault(name, value.decode("ascii", "replace"))
    return found


def _ns(moment: float) -> int:
    """A moment of time.perf_counter, on the clock that spans have."""
    return time.time_ns() - int((time.perf_counter() - moment) * 1e9)
