"""`moderation health`: asks a role for its health. The images' health checks run it, so they need no shell, no curl."""

from __future__ import annotations

import http.client
import sys
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from moderation.cli.options import err, out
from moderation.errors import ConfigError


def health(
    target: Annotated[
        str,
        typer.Argument(
            help="of a worker or an API: http://127.0.0.1:9464/livez (or /readyz), at its MODERATION_OPS__LISTEN; "
            "of an API alone: 127.0.0.1:50051, which asks over gRPC"
        ),
    ],
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds to wait for the response")] = 5.0,
) -> None:
    """Check the health of a worker or an API. Exits with 1 unless it is healthy."""
    result = ask(target, timeout)
    (out if result.healthy else err).print(result.response, highlight=False, markup=False)
    sys.exit(0 if result.healthy else 1)


@dataclass(frozen=True, slots=True)
class Health:
    """What a role responded, or why there was no response."""

    healthy: bool
    response: str


def ask(target: str, timeout_s: float) -> Health:
    """Health of a role. http://host:port/path asks over HTTP (2xx: healthy), host:port asks grpc.health.v1.

    Raises ConfigError for any other target.
    """
    try:
        url = urlsplit(target if "//" in target else f"//{target}")
        host, port = url.hostname, url.port
    except ValueError:
        host = port = None
    if not host or not port or url.scheme not in ("", "http"):
        raise ConfigError(f"{target}: the target must be host:port, or http://host:port/path")
    if url.scheme:
        return _http(host, port, url.path or "/", timeout_s)
    return _grpc(url.netloc, timeout_s)


def _http(host: str, port: int, path: str, timeout_s: float) -> Health:
    """Uses http.client and not urllib: a check on its own machine must not go through a proxy."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        return Health(False, f"no response: {type(error).__name__}")
    finally:
        connection.close()
    hint = "; a role serves /livez, /readyz and /startupz" if response.status == http.HTTPStatus.NOT_FOUND else ""
    return Health(200 <= response.status < 300, f"{response.status} {response.reason}{hint}")


def _grpc(address: str, timeout_s: float) -> Health:
    import grpc  # a worker's check runs every few seconds, and does not need it
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
        try:
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            hint = f"host:port asks over gRPC; for MODERATION_OPS__LISTEN give http://{address}/livez"
            return Health(False, f"no response: {error.code().name}; {hint}")
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    return Health(response.status == health_pb2.HealthCheckResponse.SERVING, status)
