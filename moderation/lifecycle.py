"""How a process ends. A role is one main coroutine: signals ask it to stop, an error ends it with an exit code."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog
from rich.console import Console
from rich.markup import escape

from moderation.errors import ConfigError, DeliveryError, ModerationError, PostError, without_extra
from moderation.observability import logs
from moderation.settings import LogSettings, load_log

EXIT_GRACE_S = 10.0

T = TypeVar("T")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

log = structlog.get_logger()


@contextmanager
def starting() -> Iterator[None]:
    """What a role does before `run`. An error is logged as those of `run` are, and ends the process with its code."""
    logs.configure(load_log())
    try:
        yield
    except Exception as error:  # noqa: BLE001  the one place where every error of a start ends
        sys.exit(_report(error))


def run(
    main: Callable[[asyncio.Event], Awaitable[None]],
    loop: LoopFactory | None = None,
    report: Callable[[BaseException], int] | None = None,
) -> int:
    """Runs `main` to its end and returns the exit code of the process. The caller must exit with this code.

    - SIGTERM or SIGINT sets the event. `main` should then drain and return.
    - A second signal kills the process at once. Nothing is lost, because Kafka holds all state.
    - When `main` has ended, the process is killed after EXIT_GRACE_S: a thread that is stuck on a sick device must not
      keep a dead worker in its pod.

    `loop` makes an event loop other than asyncio's own. `report` says why `main` failed, and returns the exit code; by
    default it logs.
    """
    report = report or _report
    with asyncio.Runner(loop_factory=loop) as runner:
        try:
            code = runner.run(_supervise(main, report))
        except BaseException as error:  # noqa: BLE001  asyncio raises SystemExit and KeyboardInterrupt of a task
            code = report(error)
        forced = threading.Timer(EXIT_GRACE_S, end_now, (code,))
        forced.daemon = True
        forced.start()
    log.info("process_stopped", exit_code=code)
    return code


def end_now(code: int) -> None:
    """Writes the log if it can be written, and ends the process with this exit code, even if threads still run."""
    logs.flush()
    os._exit(code)


async def _supervise(main: Callable[[asyncio.Event], Awaitable[None]], report: Callable[[BaseException], int]) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def request_stop(number: signal.Signals) -> None:
        stop.set()
        for handled in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(handled)
            signal.signal(handled, signal.SIG_DFL)
        log.info("stop_requested", signal=number.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, request_stop, number)
    loop.set_exception_handler(_report_unretrieved)
    try:
        await main(stop)
    except BaseException as error:  # the one place where every error ends, also those that are not an Exception
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # the runner ends this task
        return report(error)
    return 0


def command(run: Callable[[], object]) -> None:
    """Runs a command of the command line. A ModerationError ends it with one message and the error's exit code.

    Of any other error only the type and the frames are printed: the error's text may quote a post or a secret.
    """
    _fill_stderr()
    _show_all()
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's core prints to standard error, and may block there
    logs.configure(LogSettings(level="warning"))
    try:
        run()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001  the one place where every error of a command ends
        sys.exit(say(error))


def say(error: BaseException) -> int:
    """Prints why a command failed on standard error. Returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    known = moderation_error(error)
    text = str(known) if known else f"this is a fault of the program:\n{logs.frames(error)}"
    logs.say(_rendered(f"[bold red]moderation:[/] {escape(text)}"))
    return known.exit_code if known else 1


def _rendered(markup: str) -> str:
    """Renders in colour if standard error is a terminal. Rich must not write there itself: Rich may raise or block."""
    rendered = io.StringIO()
    is_terminal = bool(sys.stderr) and sys.stderr.isatty()
    console = Console(file=rendered, soft_wrap=True, emoji=False, force_terminal=is_terminal)
    console.print(markup, highlight=False)
    return rendered.getvalue().rstrip("\n")


def _fill_stderr() -> None:
    """Opens the null device as standard error if there is none: else the next file or socket gets its number."""
    if sys.stderr is None and (opened := os.open(os.devnull, os.O_WRONLY)) != logs.STDERR:
        os.dup2(opened, logs.STDERR)
        os.close(opened)


def _show_all() -> None:
    """What a terminal cannot show is escaped, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


async def unless_stopped(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Runs `work` until it ends or `stop` is set. Returns its result; None if `stop` was set first.

    If `stop` is set first, `work` is cancelled and awaited. Raises what `work` raises, also while it is cancelled.
    """
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
        ended = working.done()
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.wait((working, stopping))
    if ended or not working.cancelled():
        result = working.result()
        return result if ended else None
    return None


async def first_result(*works: Coroutine[Any, Any, T]) -> T:
    """Runs all until the first ends, and returns its result. Of several that end at once, the first in order counts.

    The others are cancelled and awaited. Raises what the first raises.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def uncancelled(work: Coroutine[Any, Any, T]) -> T:
    """Returns what `work` returns. Only the owner of the task may cancel the task: a cancelled task ends silently.

    Raises DeliveryError when `work` raises CancelledError by itself: a library may cancel a future that `work` awaits.
    """
    try:
        return await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise DeliveryError("a task of the process was cancelled by a library: restart the process") from None


def _report(error: BaseException) -> int:
    """Logs the error that ended `main`. Returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        log.error("process_crashed", error="KeyboardInterrupt", exc_info=error)
        return 128 + signal.SIGINT
    known = moderation_error(error)
    if known is None:  # a SystemExit of a library is a crash too, with any code
        log.error("process_crashed", error=type(error).__name__, exc_info=error)
        return 1
    if isinstance(known, ConfigError):
        log.error("configuration_rejected", message=known.message, commands=list(known.commands))
    else:
        message = known.reason if isinstance(known, PostError) else str(known)
        log.error("process_crashed", error=type(known).__name__, message=message, exc_info=error)
    return known.exit_code


def moderation_error(error: BaseException) -> ModerationError | None:
    """Returns the first ModerationError that the error is or holds, or None. A missing extra is a ConfigError."""
    return next(_moderation_errors(error), None) or without_extra(error)


def _moderation_errors(error: BaseException) -> Iterator[ModerationError]:
    if isinstance(error, ModerationError):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _moderation_errors(member)


def _report_unretrieved(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Replaces asyncio's own report, whose text holds the reprs of arguments and exceptions."""
    error = context.get("exception")
    log.warning("exception_unretrieved", exception=logs.frames(error) if error else "")
