"""Real processes: exit codes, signals, and what the log says of an error."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from moderation.errors import without_extra
from moderation.lifecycle import first_result, unless_stopped
from tests.support.programs import named, run, start


@pytest.mark.parametrize(
    ("error", "code", "event", "message"),
    [
        ("errors.ConfigError('topic posts: missing')", 2, "configuration_rejected", "topic posts: missing"),
        ("errors.DeviceError('cuda:0 is lost')", 3, "process_crashed", "cuda:0 is lost"),
        ("errors.DeliveryError('fenced')", 4, "process_crashed", "fenced"),
        ("errors.PostError(Reason.IMAGE_CORRUPT, 'secret')", 1, "process_crashed", "IMAGE_CORRUPT"),
    ],
)
@pytest.mark.parametrize("raised", ["{}", "ExceptionGroup('', [ValueError('secret'), ExceptionGroup('', [{}])])"])
def test_exit_code_of_our_errors(error: str, code: int, event: str, message: str, raised: str) -> None:
    returned, events = run(f"async def main(stop): raise {raised.format(error)}")
    assert returned == code
    assert named(events, event)["message"] == message
    assert "secret" not in json.dumps(events)


def test_commands_that_repair_it_are_logged_one_by_one() -> None:
    _, events = run("async def main(stop): raise errors.ConfigError('no topic:', commands=['make it', 'fill it'])")
    rejected = named(events, "configuration_rejected")
    assert (rejected["message"], rejected["commands"]) == ("no topic:", ["make it", "fill it"])


def test_a_logged_crash_has_its_place_and_no_message() -> None:
    returned, events = run(
        """
        async def deep(): raise KeyError("what a user wrote")
        async def main(stop):
            try: await deep()
            except KeyError as error: raise ValueError(f"bad {error}") from error
        """
    )
    assert returned == 1
    crashed = named(events, "process_crashed")
    assert crashed["error"] == "ValueError"
    assert "KeyError" in crashed["exception"]
    assert " deep" in crashed["exception"]
    assert "wrote" not in json.dumps(events)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_asks_to_stop(number: signal.Signals) -> None:
    returned, events = run(f"async def main(stop):\n    os.kill(os.getpid(), {number:d})\n    await stop.wait()")
    assert returned == 0
    assert named(events, "stop_requested")["signal"] == number.name
    assert events[-1]["event"] == "process_stopped"


def test_second_signal_kills_even_a_blocked_loop() -> None:
    process = start(
        """
        async def main(stop):
            print("started", flush=True)
            await stop.wait()
            print("draining", flush=True)
            time.sleep(60)
        """
    )
    assert process.stdout is not None
    with process:
        for line in ("started\n", "draining\n"):
            assert process.stdout.readline() == line
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == -signal.SIGTERM


def test_stuck_thread_does_not_keep_a_dead_process() -> None:
    returned, events = run(
        """
        lifecycle.EXIT_GRACE_S = 0.2
        async def main(stop):
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
            raise errors.DeviceError("hung")
        """
    )
    assert returned == 3
    assert named(events, "process_crashed")["message"] == "hung"


def test_unretrieved_exceptions_and_library_logs_hold_no_text() -> None:
    _, events = run(
        """
        import logging
        async def fail(said): raise ValueError(said)
        async def main(stop):
            asyncio.get_running_loop().call_soon(lambda said: 1 / 0, "secret")
            task = asyncio.create_task(fail("secret"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            del task
            logging.getLogger("some.library").info("chatter")
            logging.getLogger("some.library").warning("lost %s: %s", "broker-1", ValueError("secret"))
        """
    )
    unretrieved = [event["exception"] for event in events if event["event"] == "exception_unretrieved"]
    assert {"ZeroDivisionError", "ValueError"} == {text.partition("\n")[0] for text in unretrieved}
    assert [event["message"] for event in events if event["event"] == "library_warned"] == ["lost broker-1: ValueError"]
    assert "secret" not in json.dumps(events)


@pytest.mark.parametrize(("module", "extra"), [("PIL.Image", "worker"), ("obstore", "references"), ("jgo", "demo")])
def test_a_missing_module_of_an_extra_names_the_extra_to_install(module: str, extra: str) -> None:
    error = without_extra(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert error is not None
    assert f"'.[{extra}]'" in str(error)


def test_any_other_missing_module_is_a_fault() -> None:
    assert without_extra(ModuleNotFoundError("x", name="nowhere")) is None
    assert without_extra(ImportError("x", name="PIL")) is None


async def test_work_that_ends_first_gives_its_result() -> None:
    assert await unless_stopped(asyncio.Event(), asyncio.sleep(0, "done")) == "done"


async def test_a_stop_cancels_the_work_and_waits_for_its_cleanup() -> None:
    stop, cleaned = asyncio.Event(), False

    async def work() -> str:
        nonlocal cleaned
        try:
            stop.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            cleaned = True
        return "done"

    assert await unless_stopped(stop, work()) is None
    assert cleaned


@pytest.mark.parametrize("stopped", [False, True])
async def test_an_error_of_the_work_is_raised_also_when_its_cleanup_fails(stopped: bool) -> None:
    stop = asyncio.Event()

    async def work() -> None:
        try:
            if stopped:
                stop.set()
                await asyncio.sleep(60)
        finally:
            raise ValueError("the broker did not stop")

    with pytest.raises(ValueError, match="did not stop"):
        await unless_stopped(stop, work())


async def test_a_cancellation_from_outside_passes_through_once_the_work_has_ended() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    task = asyncio.create_task(unless_stopped(asyncio.Event(), work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_the_first_result_ends_the_others() -> None:
    cleaned = False

    async def wait() -> str:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True
        return "never"

    assert await first_result(wait(), asyncio.sleep(0, "done")) == "done"
    assert cleaned


async def test_the_first_error_is_raised_and_of_two_at_once_the_first_in_order() -> None:
    async def fail() -> str:
        raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        await first_result(asyncio.sleep(60, "late"), fail())
    assert await first_result(asyncio.sleep(0, "first"), asyncio.sleep(0, "second")) == "first"
