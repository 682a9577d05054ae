"""Traces: every span, named once. A trace starts at the caller of the API, or at the producer of the post. It goes
through the worker to the verdict's record, whose headers carry the trace on.

This module uses only OpenTelemetry's API. Without its SDK, a call here costs one look at the provider, and headers are
passed on unchanged. `trace_export.py` sets up the SDK where the settings name a collector; a program that uses
`moderation.client` may also set it up.

Spans hold ids, positions, codes and types of errors. They never hold content or an exception's text. Baggage is not
passed on, because it may hold anything.
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

# Names and attributes follow OpenTelemetry's semantic conventions for messaging and gRPC. The first two names have the
# topic behind them, such as "process posts".
PROCESS = "process"  # a post in the worker, from its record to its commit; inside it, a span for each phase
SEND = "send"  # the API puts a post on its topic
STEP = "model step"  # a step of the device, linked to the posts in it; a trace of its own
# A call of the API is named after its method, on both sides: moderation.v1.ModerationService/GetVerdict

FIELDS = ("traceparent", "tracestate")
# Codes that are errors of a server. The others are mistakes of callers, or say what is so.
SERVER_ERRORS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
Carried = list[tuple[str, bytes]]  # a trace, as the headers of a record carry it

_PROPAGATOR = TraceContextTextMapPropagator()
_NOTHING: AbstractContextManager[None] = nullcontext()


def tracer() -> Tracer | None:
    """The tracer; None if no SDK is set up."""
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, ProxyTracerProvider) else _tracer(provider)


@lru_cache(maxsize=1)
def _tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("moderation", moderation.__version__)


def ids() -> tuple[str, str] | None:
    """Ids of the current trace and span."""
    context = trace.get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else None


# In the worker


def received(source: Source, headers: Iterable[tuple[str, bytes | None]], group: str) -> Span | None:
    """The span of a post, within the trace in its record's headers. `committed` or `dropped` ends the span."""
    if (otel := tracer()) is None:
        return None
    attributes = _messaging(PROCESS, source.topic) | {
        "messaging.destination.partition.id": str(source.partition),
        "messaging.kafka.offset": source.offset,
        "messaging.consumer.group.name": group,
    }
    parent = _PROPAGATOR.extract(_texts(headers), context=Context())
    return otel.start_span(f"{PROCESS} {source.topic}", parent, SpanKind.CONSUMER, attributes)


def _messaging(operation: str, topic: str) -> dict[str, str | int]:
    """The attributes of every span of a record."""
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
    }


def current(span: Span | None) -> AbstractContextManager[Span | None]:
    """A context in which new spans are children of `span`, and log lines have its ids."""
    return _NOTHING if span is None else trace.use_span(span, record_exception=False, set_status_on_exception=False)


def onward(span: Span | None, headers: Sequence[tuple[str, bytes | None]]) -> Sequence[tuple[str, bytes | None]]:
    """The headers of a post, with the trace that the verdict carries on."""
    if span is None:
        return headers
    rest = [(name, value) for name, value in headers if name not in FIELDS]
    return rest + carried(trace.set_span_in_context(span, Context()))


def judged(span: Span, verdict: Verdict) -> None:
    """Adds the outcome of the post to its span."""
    span.set_attributes(
        {
            "moderation.post.id": verdict.post_id,
            "moderation.outcome": verdict.outcome.name,
            "moderation.status": verdict.status.name,
            "moderation.origin": verdict.origin.name,
        }
    )
    if verdict.problems:
        span.set_attribute("moderation.problem", str(verdict.problems[0]) or str(verdict.problems[0].reason))
    if (refused := verdict.refused) is not None or verdict.status is Status.UNDETERMINED:
        span.set_status(StatusCode.ERROR)
        span.set_attribute("error.type", str(refused.reason if refused else "undetermined"))


def committed(span: Span, ready: float, done: float) -> None:
    """Ends the span of a post whose verdict is published. `ready`, `done`: of the commit, by time.perf_counter."""
    if (otel := tracer()) is not None:
        context = trace.set_span_in_context(span, Context())
        otel.start_span(Phase.COMMIT.value, context, start_time=_ns(ready)).end(_ns(done))
    span.end()


def dropped(span: Span) -> None:
    """Ends the span of a post without an outcome: its partition was given away, or the process ends."""
    span.set_attribute("moderation.dropped", value=True)
    span.end()


def phase(phase: Phase, begun: float, done: float, step: SpanContext | None = None) -> None:
    """A span for a finished phase of the current post; times by time.perf_counter. `step`: the device step, if any."""
    otel = tracer()
    if otel is not None and trace.get_current_span().is_recording():
        links = [Link(step)] if step else []
        otel.start_span(phase.value, start_time=_ns(begun), links=links).end(_ns(done))


def recorded() -> SpanContext | None:
    """The current span, if it is sampled."""
    span = trace.get_current_span()
    return span.get_span_context() if span.is_recording() else None


def stepped(posts: Sequence[SpanContext], begun: float, size: Mapping[str, int]) -> SpanContext | None:
    """The span of a finished device step; None if no post of it is sampled. `begun`: by time.perf_counter."""
    otel = tracer()
    if otel is None or not posts:
        return None
    attributes = {f"moderation.step.{name}": count for name, count in size.items()}
    links = [Link(post) for post in {post.span_id: post for post in posts}.values()]
    span = otel.start_span(STEP, Context(), attributes=attributes, links=links, start_time=_ns(begun))
    span.end()
    return span.get_span_context()


# Calls, on both sides


class Called(Protocol):
    """An incoming call, as gRPC represents it."""

    def invocation_metadata(self) -> Any:
        """Pairs, or None."""


def serving(service: str, method: str, call: Called) -> AbstractContextManager[Span | None]:
    """A context with the span of an incoming call."""
    if (otel := tracer()) is None:
        return _NOTHING
    fields = {name: value for name, value in call.invocation_metadata() or () if name in FIELDS}
    return _call(otel, f"{service}/{method}", SpanKind.SERVER, _PROPAGATOR.extract(fields, context=Context()), {})


def calling(service: str, method: str, server: Mapping[str, str | int]) -> AbstractContextManager[Span | None]:
    """A context with the span of an outgoing call. `server`: what `server_of` returns of the address."""
    otel = tracer()
    return _NOTHING if otel is None else _call(otel, f"{service}/{method}", SpanKind.CLIENT, None, server)


def server_of(address: str) -> dict[str, str | int]:
    """The attributes that name a server. `address`: as gRPC takes it (host:port, dns:///host, unix:/path)."""
    scheme, colon, path = address.partition(":")
    if colon and scheme in ("unix", "unix-abstract"):
        return {"server.address": path.removeprefix("//")}
    if colon and scheme in ("dns", "ipv4", "ipv6"):
        address = path.rpartition("/")[2]
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or (":" in host and not host.startswith("[")):
        return {"server.address": address.strip("[]")}
    return {"server.address": host.strip("[]"), "server.port": int(port)}


def _call(
    otel: Tracer, name: str, kind: SpanKind, parent: Context | None, server: Mapping[str, str | int]
) -> AbstractContextManager[Span]:
    attributes = {"rpc.system.name": "grpc", "rpc.method": name, **server}
    return otel.start_as_current_span(
        name, parent, kind, attributes, record_exception=False, set_status_on_exception=False
    )


def ended(span: Span | None, code: str) -> None:
    """Adds the status of an outgoing call to its span."""
    _end(span, code, failed=code != "OK")


def served(span: Span | None, code: str) -> None:
    """Adds the status of an incoming call to its span. A mistake of the caller is no error of the server."""
    _end(span, code, failed=code in SERVER_ERRORS)


def _end(span: Span | None, code: str, *, failed: bool) -> None:
    if span is not None:
        span.set_attribute("rpc.response.status_code", code)
        if failed:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", code)


def metadata() -> list[tuple[str, str]]:
    """The current trace, as metadata of an outgoing call."""
    fields: dict[str, str] = {}
    _PROPAGATOR.inject(fields)
    return list(fields.items())


@contextmanager
def sending(topic: str, post_id: str, headers: Sequence[tuple[str, bytes]]) -> Iterator[Sequence[tuple[str, bytes]]]:
    """A context with the span of a post that is produced. Yields the headers to send: `headers` if no SDK is set up."""
    if (otel := tracer()) is None:
        yield headers
        return
    attributes = _messaging(SEND, topic) | {"moderation.post.id": post_id}
    with otel.start_as_current_span(
        f"{SEND} {topic}", None, SpanKind.PRODUCER, attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield carried()
        except Exception as error:
            span.set_status(StatusCode.ERROR)
            span.set_attribute("error.type", type(error).__name__)
            raise


def carried(context: Context | None = None) -> Carried:
    """The trace of a context (default: the current one) as headers."""
    fields: dict[str, str] = {}
    _PROPAGATOR.inject(fields, context)
    return [(name, value.encode()) for name, value in fields.items()]


def _texts(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """The headers of a trace. The first header of a name counts, as in the verdict."""
    texts: dict[str, str] = {}
    for name, value in headers:
        if name in FIELDS and value is not None:
            texts.setdefault(name, value.decode("ascii", "replace"))
    return texts


def _ns(moment: float) -> int:
    """A time of time.perf_counter on the clock of spans."""
    return time.time_ns() - int((time.perf_counter() - moment) * 1e9)
