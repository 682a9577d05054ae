"""What operators look at, on the real commands: ports, traces over OTLP, logs and `moderation top`."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.commands import Role, Service, produce
from tests.support.lookups import a_free_address
from tests.support.operations_port import ask
from tests.support.topics import committed_records

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01".encode()


class Collector(ThreadingHTTPServer):
    """Receives spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, str, str]] = []  # service, span, trace
        super().__init__(("127.0.0.1", 0), Intake)


class Intake(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {pair.key: pair.value.string_value for pair in group.resource.attributes}
            for scope in group.scope_spans:
                self.server.spans += [(named["service.name"], span.name, span.trace_id.hex()) for span in scope.spans]
        response = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            yield collector
        finally:  # otherwise a test that fails leaves a process that never ends
            collector.shutdown()
            thread.join()


def top(*endpoints: str) -> str:
    command = [sys.executable, "-m", "moderation", "top", "--once", "--interval", "0.5", *endpoints]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
    done = subprocess.run(
        command, env=environment | {"COLUMNS": "160"}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1, done.stderr  # one endpoint of each test refuses connections
    return done.stdout


def row(page: str, first: str) -> list[str]:
    """The cells of the first row that begins with this."""
    line = next(line for line in page.splitlines() if line.startswith(first))
    return line.removeprefix(first).split()


def observed(service: Service, listen: str, collector: Collector) -> Service:
    extra = {
        "MODERATION_MODEL": "fake",
        "MODERATION_OPS__LISTEN": listen,
        "MODERATION_TRACES__ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "MODERATION_TRACES__SAMPLE_RATIO": "0",
    }
    return replace(service, extra=extra)


def test_a_worker_and_an_api_can_be_watched(service: Service) -> None:
    ports = worker_port, api_port = a_free_address(), a_free_address()
    with (
        collecting() as collector,
        observed(service, worker_port, collector).worker() as worker,
        observed(service, api_port, collector).api() as api,
    ):
        worker.wait_for("worker_ready")
        api.wait_for("api_ready")
        text = "violates:weapons-sale a rifle"
        records = [
            (f"post-{number}".encode(), json.dumps({"id": f"post-{number}", "text": text}).encode(), ())
            for number in range(30)
        ]
        far = {"id": "far", "text": "secret", "images": [{"uri": "ftp://secret.example.com/a.png"}]}
        rejected = [(b"far", json.dumps(far).encode(), (("traceparent", PARENT),)), (b"torn", b"{secret", ())]
        asyncio.run(produce(service.kafka, service.posts, [*records, *rejected]))
        verdicts = asyncio.run(committed_records(service.kafka, service.verdicts, 32))
        _probes_are_well(ports)
        _a_line_names_post_and_trace(worker)
        end = time.monotonic() + 30
        while row(page := top(*ports, "127.0.0.1:1"), "lag")[0] == "-":  # brokers are asked every two seconds
            assert time.monotonic() < end, page
        _the_page_shows_it(page, ports)
        assert worker.stop() == api.stop() == 0
        _its_trace_was_sent(collector, worker, service.posts)
    assert {json.loads(record.value)["traceId"] for record in verdicts if record.key == b"far"} == {TRACE}
    assert "secret" not in page + worker.log + api.log


def _probes_are_well(ports: tuple[str, str]) -> None:
    for port in ports:
        for path in ("/livez", "/readyz", "/startupz"):
            assert ask(port, path)[0] == 200, f"{port}{path}"


def _a_line_names_post_and_trace(worker: Role) -> None:
    event = worker.wait_for("post_dead_lettered")
    lines = {line["post_id"]: line for line in worker.events if line["event"] == "post_dead_lettered"}
    assert event["span_id"]
    assert lines["far"]["trace_id"] == TRACE
    assert lines["torn"]["reason"] == "NOT_DECODABLE"


def _its_trace_was_sent(collector: Collector, worker: Role, topic: str) -> None:
    """The whole trace arrives before the worker ends. Posts without a sampling decision leave none."""
    posts = [span for span in collector.spans if span[1] == f"process {topic}"]
    assert posts == [("moderation-worker", f"process {topic}", TRACE)], worker.log


def _the_page_shows_it(page: str, ports: tuple[str, str]) -> None:
    worker, api = (row(page, f"http://{port}/metrics") for port in ports)
    assert (worker[0], api[0]) == ("worker", "api")
    assert row(page, "http://127.0.0.1:1/metrics") == ["Connection", "refused"]
    assert row(page, "lag")[:1] == ["0"]
    assert row(page, "since start")[:7] == ["0", "2", "30", "30", "1", "1", "0"]
    assert row(page, "weapons-sale")[:3] == ["0", "1", "30"]
    assert row(page, "IMAGE_FORBIDDEN")[:1] == row(page, "NOT_DECODABLE")[:1] == ["1"]
    assert "view 0 behind" in page


def test_an_endpoint_that_refuses_connections_is_listed_as_such() -> None:
    page = top(a_free_address())
    assert "Connection refused" in page
    assert "lag" not in page
