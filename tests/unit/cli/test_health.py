"""A health check asks a real server, says what it said, and never hangs on one that does not answer."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from moderation.cli.health import Health, ask
from moderation.errors import ConfigError

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Probes(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response({"/livez": 200, "/readyz": 503, "/moved": 302}.get(self.path, 404))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def ops() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Probes) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def deaf() -> Iterator[str]:
    """It accepts connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_only_status_200_is_healthy(ops: str) -> None:
    assert ask(f"{ops}/livez", 10) == Health(True, "200 OK")
    assert ask(f"{ops}/readyz", 10) == Health(False, "503 Service Unavailable")
    assert ask(f"{ops}/moved", 10) == Health(False, "302 Found")
    assert ask(ops, 10) == Health(False, "404 Not Found; a role serves /livez, /readyz and /startupz")


def test_only_a_serving_grpc_server_is_healthy() -> None:
    checks = HealthServicer()
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        checks.set("", SERVING)
        assert ask(address, 10) == Health(True, "SERVING")
        checks.set("", NOT_SERVING)
        assert ask(address, 10) == Health(False, "NOT_SERVING")
    finally:
        server.stop(0).wait()
    hint = f"host:port asks over gRPC; for MODERATION_OPS__LISTEN give http://{address}/livez"
    assert ask(address, 5) == Health(False, f"no response: UNAVAILABLE; {hint}")


def test_grpc_asked_of_a_port_for_http(ops: str) -> None:
    health = ask(ops.removeprefix("http://"), 10)
    assert (health.healthy, f"give {ops}/livez" in health.response) == (False, True)


def test_a_role_that_does_not_respond_is_unhealthy(deaf: str) -> None:
    assert ask(f"http://{deaf}/livez", 0.2) == Health(False, "no response: TimeoutError")
    assert ask(deaf, 0.2).healthy is False


@pytest.mark.parametrize(
    "target", ["", "localhost", "https://a:1/livez", "http://a/livez", "a:port", "a:99999", "/livez"]
)
def test_a_target_without_host_and_port_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match="host:port"):
        ask(target, 1)


def test_the_command_asks_its_role_without_a_proxy(ops: str) -> None:
    """Through a proxy that is not there it would fail: a check goes straight to its role."""

    def run(target: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "moderation", "health", target],
            env=os.environ | {"http_proxy": "http://127.0.0.1:9"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert run(f"{ops}/livez") == (0, "200 OK\n", "")
    assert run(f"{ops}/readyz") == (1, "", "503 Service Unavailable\n")
    assert run("nowhere")[0] == 2
