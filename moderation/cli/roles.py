"""The two roles: `moderation worker` and `moderation api`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

from moderation import lifecycle, settings
from moderation.errors import ConfigError
from moderation.observability import logs
from moderation.settings import Settings


def worker() -> None:
    """Read posts from Kafka, judge them and publish the verdicts. Runs until SIGTERM."""

    def role(loaded: Settings) -> Callable[[asyncio.Event], Awaitable[None]]:
        from moderation.worker import role as worker_role

        return lambda stop: worker_role.run(loaded, stop)

    _serve("worker", role)


def api() -> None:
    """Serve verdict lookups over gRPC. Runs until SIGTERM."""
    import uvloop

    # gRPC's core writes to stderr by itself, a line for each bad call: a caller could fill the log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    def role(loaded: Settings) -> Callable[[asyncio.Event], Awaitable[None]]:
        from moderation.api import role as api_role

        return lambda stop: api_role.serve(loaded, stop)

    _serve("api", role, uvloop.new_event_loop)  # a call takes a seventh less of the CPU


def _serve(
    name: str,
    role: Callable[[Settings], Callable[[asyncio.Event], Awaitable[None]]],
    loop: lifecycle.LoopFactory | None = None,
) -> None:
    with lifecycle.starting():
        loaded = settings.load()
        logs.configure(loaded.log)
        logs.capture_prints(loaded.log)
        flush_traces = start_trace_export(loaded, name)
        main = role(loaded)
    code = lifecycle.run(main, loop)
    flush_traces()  # within the grace that an end has
    sys.exit(code)


def start_trace_export(loaded: Settings, role: str) -> Callable[[], None]:
    """Exports traces if the settings name an endpoint. Returns a function that sends the last spans.

    Raises ConfigError when the extra `otel` is not installed.
    """
    if not loaded.traces.endpoint:
        return lambda: None
    try:
        from moderation.observability import trace_export
    except ImportError:
        raise ConfigError("MODERATION_TRACES__ENDPOINT needs the extra otel: pip install 'moderation[otel]'") from None
    return trace_export.start(loaded.traces, role)
