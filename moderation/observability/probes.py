"""The operations port: metrics for Prometheus and probes for the kubelet, answered by threads of its own.

    /metrics    every metric
    /livez      200 while the process gets on; 503, and why, once its event loop has stood still, or a post has been in
                a worker's hands, for longer than the settings allow. What a broker does is not in it: a transaction has
                its own, shorter deadline
    /readyz     200 while there is work that it can do
    /startupz   200 once it has started: weights loaded and warm, or the view open

They answer also while the event loop is stuck: that is when they are needed.
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
from moderation.observability import metrics
from moderation.settings import OpsSettings

TICK_S = 0.5
REQUEST_S = 10.0  # for a request to arrive and its answer to be taken
MOST_REQUESTS = 16  # at once; who comes beyond is hung up on

log = structlog.get_logger()

_late = metrics.LOOP_LAG.series()


@dataclass(frozen=True, slots=True)
class Work:
    """What a role has in hand."""

    oldest: float | None = None  # when its oldest post was taken, by time.monotonic; None: it has none
    timeout_s: float = 0.0  # how long it may have it


class Liveness:
    """A role's signs of life. Written on the event loop, read by the port's threads."""

    def __init__(self, settings: OpsSettings) -> None:
        self.heard = bool(settings.listen)  # whether anybody can ask
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
        """The event loop is there, and looks at its work."""
        self._work = self.look()
        self._ticked = now

    def stood_still(self, now: float) -> float:
        """Seconds since the last tick."""
        return max(0.0, now - self._ticked)

    def ailment(self, now: float) -> str:
        """Why the process should be killed; empty: it should not."""
        if (still := self.stood_still(now)) > self._settings.loop_timeout_s:
            return f"the event loop has stood still for {still:.0f} s"
        work = self._work
        if work.oldest is not None and (age := now - work.oldest) > work.timeout_s:
            return f"a post has been in hand for {age:.0f} s"
        return ""


@asynccontextmanager
async def opened(settings: OpsSettings, role: str) -> AsyncIterator[Liveness]:
    """The port, for as long as a role runs; without an address the pulse alone. Raises ConfigError."""
    liveness = Liveness(settings)
    metrics.BUILD.labels(moderation.__version__, role).set(1)
    if not liveness.heard:
        yield liveness
        return
    server = _server(settings.listen, application(liveness))
    threading.Thread(target=server.serve_forever, name="ops", daemon=True).start()
    metrics.LOOP_TICK_AGE.set_function(lambda: liveness.stood_still(time.monotonic()))
    log.info("ops_listening", listen=settings.listen, port=server.server_port)
    try:
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
    """What the port answers."""
    exposition = make_wsgi_app()

    def answer(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environment.get("PATH_INFO", "")
        if environment.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _told(start, "405 Method Not Allowed", "GET")
        if path == "/metrics":
            try:
                written: Iterable[bytes] = exposition(environment, start)
            except Exception as error:  # noqa: BLE001  wsgiref would print it with its text
                log.error("metrics_failed", error=type(error).__name__)  # noqa: TRY400
                return _told(start, "500 Internal Server Error", "the metrics cannot be read")
            return written
        if path == "/livez":
            ailment = liveness.ailment(time.monotonic())
            return _told(start, "503 Service Unavailable" if ailment else "200 OK", ailment or "alive")
        if path == "/readyz":
            return _told(start, *(("200 OK", "ready") if liveness.ready else ("503 Service Unavailable", "not ready")))
        if path == "/startupz":
            told = ("200 OK", "started") if liveness.started else ("503 Service Unavailable", "starting")
            return _told(start, *told)
        return _told(start, "404 Not Found", "/metrics, /livez, /readyz, /startupz")

    return answer


def _told(start: StartResponse, status: str, text: str) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    start(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [body]


class _Request(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, format: str, *args: Any) -> None:
        """Probes come every few seconds: nobody wants a line of each."""

    def get_stderr(self) -> io.StringIO:
        """Takes the tracebacks that wsgiref prints: they hold exceptions' texts, and printing may block."""
        return io.StringIO()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a request that hangs on a sick device does not keep the process
    request_queue_size = MOST_REQUESTS

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily) -> None:
        self.address_family = family
        self._room = threading.BoundedSemaphore(MOST_REQUESTS)
        super().__init__(address, _Request)

    def server_bind(self) -> None:
        """Without wsgiref's look-up of our own name, which may take its time."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """On a thread of its own, as long as there are not too many."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # there was no thread for it
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """On that thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who has hung up, or said nothing in time, is no news."""
        log.debug("ops_request_failed")


def _server(listen: str, answers: WSGIApplication) -> _Server:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]") or "no host"
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        server = _Server((host, int(port)), found[0][0])
    except (OSError, ValueError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is no host:port"
        raise ConfigError(f"MODERATION_OPS__LISTEN: cannot listen on {listen}: {why}") from None
    server.set_app(answers)
    return server
