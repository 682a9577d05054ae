"""Asks a role how it is, as a container's own health check does: an image needs no shell and no curl for it."""

from __future__ import annotations

import http.client
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from moderation.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Health:
    """What a role says of itself; of one that does not answer, why."""

    healthy: bool
    answer: str


def ask(target: str, timeout_s: float) -> Health:
    """http://host:port/path asks over HTTP, where 2xx is healthy; host:port asks grpc.health.v1. Raises ConfigError."""
    try:
        url = urlsplit(target if "//" in target else f"//{target}")
        host, port = url.hostname, url.port
    except ValueError:
        raise ConfigError(f"{target}: host:port, or http://host:port/path") from None
    if not host or not port or url.scheme not in ("", "http"):
        raise ConfigError(f"{target}: host:port, or http://host:port/path")
    if url.scheme:
        return _http(host, port, url.path or "/", timeout_s)
    return _grpc(url.netloc, timeout_s)


def _http(host: str, port: int, path: str, timeout_s: float) -> Health:
    """http.client and not urllib: what asks a role on its own machine goes through no proxy."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        return Health(False, f"no answer: {type(error).__name__}")
    finally:
        connection.close()
    return Health(200 <= response.status < 300, f"{response.status} {response.reason}")


def _grpc(address: str, timeout_s: float) -> Health:
    import grpc  # noqa: PLC0415  a worker's check runs every few seconds, and has no use for it
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            return Health(False, f"no answer: {error.code().name}")
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return Health(answer.status == health_pb2.HealthCheckResponse.SERVING, status)
