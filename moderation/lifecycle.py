"""How a process ends. A role is one main coroutine: signals ask it to stop, an error ends it with an exit code."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import structlog
from rich.console import Console
from rich.markup import escape

from moderation.errors import ConfigError, DeliveryError, ModerationError, PostError, without_extra
from moderation.observability import logs
from moderation.settings import LogSettings

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
        try:
            code = runner.run(_supervise(main))
        except BaseException as error:  # noqa: BLE001  asyncio lets SystemExit and KeyboardInterrupt of a task through
            code = _report(error)
        forced = threading.Timer(EXIT_GRACE_S, end_now, (code,))
        forced.daemon = True
        forced.start()
    log.info("process_stopped", exit_code=code)
    return code


def end_now(code: int) -> None:
    """Ends the process with this exit code, whatever its threads do, once its log is written or cannot be."""
    logs.flush()
    os._exit(code)


async def _supervise(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def request_stop(number: signal.Signals) -> None:
        stop.set()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        log.info("stop_requested", signal=number.name)

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, request_stop, each)
    loop.set_exception_handler(_report_unretrieved)
    try:
        await main(stop)
    except BaseException as error:  # the one place where every error ends; some are no Exception
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # it is the runner that ends us
        return _report(error)
    return 0


def command(run: Callable[[], object]) -> None:
    """Runs a command of the command line. An error of ours ends it with one clear message and its own exit code.

    Of any other error only the type and the frames are printed: its text may quote a post or a secret.
    """
    _fill_stderr()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core prints to standard error itself, and may block there
    logs.configure(LogSettings(level="warning"))
    try:
        run()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001  the one place where every error of a command ends
        found = ours(error)
        text = str(found) if found else f"this is a fault of the program:\n{logs.frames(error)}"
        logs.say(_rendered(f"[bold red]moderation:[/] {escape(text)}"))
        sys.exit(found.exit_code if found else 1)


def _rendered(markup: str) -> str:
    """In colour where standard error is a terminal. Rich must not write there itself: it may raise or block."""
    made = io.StringIO()
    console = Console(file=made, soft_wrap=True, force_terminal=bool(sys.stderr) and sys.stderr.isatty())
    console.print(markup, highlight=False)
    return made.getvalue().rstrip("\n")


def _fill_stderr() -> None:
    """Opens the null device as standard error where there is none: else the next file or socket gets its number."""
    if sys.stderr is None and (opened := os.open(os.devnull, os.O_WRONLY)) != logs.STDERR:
        os.dup2(opened, logs.STDERR)
        os.close(opened)


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


def _report(error: BaseException) -> int:
    """Logs what has ended `main`. Returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        log.error("process_crashed", error="KeyboardInterrupt", exc_info=error)
        return 128 + signal.SIGINT
    found = ours(error)
    if found is None:  # a SystemExit of a library is a crash too, whatever its code
        log.error("process_crashed", error=type(error).__name__, exc_info=error)
        return 1
    if isinstance(found, ConfigError):
        log.error("configuration_rejected", message=str(found))
    else:
        message = found.reason if isinstance(found, PostError) else str(found)
        log.error("process_crashed", error=type(found).__name__, message=message, exc_info=error)
    return found.exit_code


def ours(error: BaseException) -> ModerationError | None:
    """The error of ours that this is, or holds; None: there is none. A missing extra is a ConfigError."""
    return next(_ours(error), None) or without_extra(error)


def _ours(error: BaseException) -> Iterator[ModerationError]:
    if isinstance(error, ModerationError):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _ours(member)


def _report_unretrieved(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """In place of asyncio's own report, whose text holds the reprs of arguments and exceptions."""
    error = context.get("exception")
    log.warning("exception_unretrieved", exception=logs.frames(error) if error else "")
