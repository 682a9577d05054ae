"""The operations port: metrics for Prometheus and probes for the kubelet, served by threads of its own.

    /metrics    every metric
    /livez      200 while the process makes progress. 503 and the cause once its event loop has been stuck, or a post
                has been in hand, for longer than the settings allow. Brokers do not influence it: a transaction has a
                shorter deadline of its own
    /readyz     200 while the process can work
    /startupz   200 once the process has started: weights loaded and warm, or the view open

The port also responds while the event loop is stuck: that is when probes are needed.
"""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import structlog
from prometheus_client import make_wsgi_app

import moderation
from moderation.errors import ConfigError
from moderation.observability import metrics, process
from moderation.settings import OpsSettings

TICK_S = 0.5
REQUEST_S = 10.0  # for a request to arrive and its response to be read
MAX_REQUESTS = 16  # at once; further connections are closed

log = structlog.get_logger()

_late = metrics.LOOP_LAG.series()


@dataclass(frozen=True, slots=True)
class Work:
    """The work that a role has in hand."""

    oldest: float | None = None  # when its oldest post was polled, by time.monotonic; None: no post in hand
    timeout_s: float = 0.0  # how long a post may be in hand


class Liveness:
    """Whether a role is alive, started and ready. Written on the event loop, read by the port's threads."""

    def __init__(self, settings: OpsSettings) -> None:
        self.served = bool(settings.listen)  # whether there is a port
        self.started = False
        self.ready = False
        self.look: Callable[[], Work] = Work  # called at every tick, on the event loop
        self._settings = settings
        self._ticked = time.monotonic()
        self._work = Work()

    async def beat(self) -> None:
        """Ticks until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK_S
            await asyncio.sleep(TICK_S)
            _late.add(max(0.0, loop.time() - due))
            self.tick(time.monotonic())

    def tick(self, now: float) -> None:
        """Records that the event loop runs, and the work in hand."""
        self._work = self.look()
        self._ticked = now

    def stood_still(self, now: float) -> float:
        """Seconds since the last tick."""
        return max(0.0, now - self._ticked)

    def stuck_cause(self, now: float) -> str:
        """Why the process should be killed, or the empty string."""
        if (still := self.stood_still(now)) > self._settings.loop_timeout_s:
            return f"the event loop has stood still for {still:.0f} s"
        work = self._work
        if work.oldest is not None and (age := now - work.oldest) > work.timeout_s:
            return f"a post has been in hand for {age:.0f} s"
        return ""


@asynccontextmanager
async def opened(settings: OpsSettings, role: str) -> AsyncIterator[Liveness]:
    """Serves the port for as long as a role runs. Without an address there is no port. Raises ConfigError."""
    liveness = Liveness(settings)
    metrics.BUILD.labels(moderation.__version__, role).set(1)
    if not liveness.served:
        yield liveness
        return
    server = _server(settings.listen, application(liveness))
    threading.Thread(target=server.serve_forever, name="ops", daemon=True).start()
    metrics.LOOP_TICK_AGE.set_function(lambda: liveness.stood_still(time.monotonic()))
    log.info("ops_listening", listen=settings.listen, port=server.server_port)
    try:
        with process.shown(role, lambda: liveness.ready):
            async with asyncio.TaskGroup() as tasks:
                beating = tasks.create_task(liveness.beat())
                try:
                    yield liveness
                finally:
                    beating.cancel()
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def application(liveness: Liveness) -> WSGIApplication:
    """The application that the port serves."""
    exposition = make_wsgi_app()

    def respond(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environment.get("PATH_INFO", "")
        if environment.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _respond(start, "405 Method Not Allowed", "GET")
        if path == "/metrics":
            try:
                written: Iterable[bytes] = exposition(environment, start)
            except Exception as error:  # noqa: BLE001  wsgiref would print it with its text
                log.error("metrics_failed", error=type(error).__name__)  # noqa: TRY400
                return _respond(start, "500 Internal Server Error", "the metrics cannot be read")
            return written
        if path == "/livez":
            cause = liveness.stuck_cause(time.monotonic())
            return _respond(start, "503 Service Unavailable" if cause else "200 OK", cause or "alive")
        if path == "/readyz":
            return _respond(
                start, *(("200 OK", "ready") if liveness.ready else ("503 Service Unavailable", "not ready"))
            )
        if path == "/startupz":
            status = ("200 OK", "started") if liveness.started else ("503 Service Unavailable", "starting")
            return _respond(start, *status)
        return _respond(start, "404 Not Found", "/metrics, /livez, /readyz, /startupz")

    return respond


def _respond(start: StartResponse, status: str, text: str) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


class _Request(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: probes come every few seconds."""

    def get_stderr(self) -> io.StringIO:
        """Discards the tracebacks that wsgiref prints: they hold exceptions' texts, and printing may block."""
        return io.StringIO()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a request that hangs does not keep the process alive
    request_queue_size = MAX_REQUESTS

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily) -> None:
        self.address_family = family
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__(address, _Request)

    def server_bind(self) -> None:
        """Binds without wsgiref's look-up of the host's name, which may be slow."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serves a request on a thread of its own, if there are fewer than MAX_REQUESTS."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a request, on its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs a client that has disconnected or timed out, at level debug only."""
        log.debug("ops_request_failed")


def _server(listen: str, served: WSGIApplication) -> _Server:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]") or "no host"
    try:
        addresses = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        server = _Server((host, int(port)), addresses[0][0])
    except (OSError, ValueError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not host:port"
        raise ConfigError(f"MODERATION_OPS__LISTEN: cannot listen on {listen}: {why}") from None
    server.set_app(served)
    return server
