"""One process, one main coroutine: signals ask it to stop, an error ends it with the exit code of its fate."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import structlog

from moderation.errors import ConfigError, DeliveryError, ModerationError, PostError, without_extra
from moderation.telemetry import frames

EXIT_GRACE_S = 10.0

T = TypeVar("T")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

log = structlog.get_logger()


def run(main: Callable[[asyncio.Event], Awaitable[None]], loop: LoopFactory | None = None) -> int:
    """Runs `main` to its end and returns the process's exit code: the caller must exit with it.

    SIGTERM or SIGINT sets the event: `main` should drain and return. A second signal kills at once; nothing is lost,
    since Kafka holds all state. When `main` has ended the process does too, by force after EXIT_GRACE_S: a thread
    stuck on a sick device must not keep a dead worker in its pod. `loop` makes another event loop than asyncio's own.
    """
    with asyncio.Runner(loop_factory=loop) as runner:
        code = runner.run(_supervise(main))
    log.info("process_stopped", exit_code=code)
    return code


async def _supervise(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def request_stop(number: signal.Signals) -> None:
        log.info("stop_requested", signal=number.name)
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, request_stop, each)
    loop.set_exception_handler(_report_unretrieved)
    try:
        await main(stop)
        code = 0
    except Exception as error:  # noqa: BLE001  the one place where every error ends
        code = _report(error)
    forced = threading.Timer(EXIT_GRACE_S, os._exit, (code,))
    forced.daemon = True
    forced.start()
    return code


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns; None if `stop` is set first, with `work` cancelled: nobody waits for a start in vain."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.wait((working, stopping))


async def uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. A task that ends cancelled ends silently; so nothing but its owner may cancel it.

    Raises DeliveryError when `work` raises CancelledError by itself: a library may cancel a future that we wait for.
    """
    try:
        return await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise DeliveryError("a task of the process was cancelled from within: start again") from None


def _report(error: Exception) -> int:
    ours = next(_ours(error), None) or without_extra(error)
    if ours is None:
        log.error("process_crashed", error=type(error).__name__, exc_info=error)
        return 1
    if isinstance(ours, ConfigError):
        log.error("configuration_rejected", message=str(ours))
    else:
        message = ours.reason if isinstance(ours, PostError) else str(ours)
        log.error("process_crashed", error=type(ours).__name__, message=message, exc_info=error)
    return ours.exit_code


def _ours(error: BaseException) -> Iterator[ModerationError]:
    if isinstance(error, ModerationError):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _ours(member)


def _report_unretrieved(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """In place of asyncio's own report, whose text holds the reprs of arguments and exceptions."""
    error = context.get("exception")
    log.warning("exception_unretrieved", exception=frames(error) if error else "")
