"""What spans say of a call, by OpenTelemetry's semantic conventions for gRPC."""

from __future__ import annotations

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import Span, StatusCode

from moderation.observability import traces

# The codes that are errors of a server, by the conventions.
ERRORS = {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}


def a_span() -> Span:
    return TracerProvider().get_tracer("test").start_span("call")


def status(span: Span) -> tuple[StatusCode, object]:
    assert isinstance(span, ReadableSpan)
    return span.status.status_code, (span.attributes or {}).get("error.type")


@pytest.mark.parametrize("code", [code.name for code in grpc.StatusCode])
def test_a_code_is_an_error_of_the_caller_and_only_some_are_of_the_server(code: str) -> None:
    served, called = a_span(), a_span()
    traces.served(served, code)
    traces.ended(called, code)
    assert status(served) == ((StatusCode.ERROR, code) if code in ERRORS else (StatusCode.UNSET, None))
    assert status(called) == ((StatusCode.UNSET, None) if code == "OK" else (StatusCode.ERROR, code))


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("api.internal:50051", "api.internal", 50051),
        ("[::1]:50051", "::1", 50051),
        ("::1", "::1", None),
        ("dns:///api.internal:443", "api.internal", 443),
        ("dns://10.0.0.1/api.internal:443", "api.internal", 443),
        ("ipv4:10.1.2.80:50051", "10.1.2.80", 50051),
        ("ipv6:[2001:db8::1]:50051", "2001:db8::1", 50051),
        ("unix:/run/api.sock", "/run/api.sock", None),
        ("unix:///run/api.sock", "/run/api.sock", None),
        ("api.internal", "api.internal", None),
    ],
)
def test_the_server_of_an_address(address: str, host: str, port: int | None) -> None:
    assert traces.server_of(address) == {"server.address": host} | ({"server.port": port} if port else {})
