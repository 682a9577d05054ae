"""A log that cannot be written: real processes whose standard error is gone, full, stopped or closed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pytest

from moderation.observability.log_writer import MAX_LINES
from tests.support.programs import PRELUDE
from tests.support.streams import STREAMS

LINES = MAX_LINES * 3  # more than any pipe and the queue hold
BUSY = f"""
    log = structlog.get_logger()
    async def main(stop):
        for number in range({LINES}):
            log.info("worked", number=number)
        thread = threading.Thread(target=lambda: [log.info("worked_in_thread") for _ in range(100)])
        thread.start()
        thread.join()
        print("worked", flush=True)
        await stop.wait()
        print(int(metrics.LOG_DROPPED.counts[()]), flush=True)
"""


def program(code: str) -> list[str]:
    head = PRELUDE + "\nimport structlog\nfrom moderation.observability import metrics\n"
    return [sys.executable, "-c", head + textwrap.dedent(code) + "\nsys.exit(lifecycle.run(main))"]


@pytest.mark.parametrize("stream", [*STREAMS, "closed"])
def test_a_process_works_and_stops_without_its_log(stream: str) -> None:
    with ExitStack() as stack:
        command = program(BUSY)
        if stream == "closed":
            command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
        stderr = STREAMS[stream](stack) if stream in STREAMS else None
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True))
        stack.callback(process.kill)
        assert process.stdout
        assert process.stdout.readline() == "worked\n"
        process.send_signal(signal.SIGTERM)
        assert int(process.stdout.readline()) > LINES - MAX_LINES - 5_000  # 5,000: what a pipe holds at most
        assert process.wait(30) == 0


def test_a_reader_that_resumes_gets_the_lines_in_order_and_the_number_lost() -> None:
    with subprocess.Popen(program(BUSY), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "worked\n"  # and nobody has read the log yet
        worked, lost, number = 0, 0, -1
        while worked + lost < LINES + 100:
            event = json.loads(process.stderr.readline())
            if event["event"] == "log_lines_dropped":
                lost += event["lines"]
                assert event["level"] == "warning"
                continue
            assert event.get("number", LINES) > number
            number = event.get("number", number)
            worked += 1
        assert worked + lost == LINES + 100
        assert worked >= MAX_LINES
        process.send_signal(signal.SIGTERM)
        assert [json.loads(line)["event"] for line in process.stderr] == ["stop_requested", "process_stopped"]
        assert int(process.stdout.readline()) == lost
        assert process.wait(30) == 0


def test_lines_are_written_once_the_disk_has_space_again(tmp_path: Path) -> None:
    code = """
        import resource
        log = structlog.get_logger()
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        async def main(stop):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
            for number in range(100):
                log.info("worked", number=number)
            while not metrics.LOG_ERRORS.counts[("EFBIG",)]:
                await asyncio.sleep(0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    """
    with (tmp_path / "log").open("w") as log:
        assert subprocess.run(program(code), stderr=log, check=False, timeout=60).returncode == 0
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [event["number"] for event in events[:-1]] == list(range(100))
    assert events[-1]["event"] == "process_stopped"


def run(code: str, *, check: int = 0) -> list[dict[str, Any]]:
    ended = subprocess.run(program(code), stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert ended.returncode == check, ended.stderr
    assert "secret" not in ended.stderr
    return [json.loads(line) for line in ended.stderr.splitlines()]


def test_a_value_that_cannot_be_written_raises_nothing() -> None:
    events = run(
        """
        import logging
        class Panic(BaseException): pass
        class Bad:
            def __init__(self, error): self.error = error
            def __repr__(self): raise self.error("secret")
        nested = []
        for _ in range(100_000): nested = [nested]
        async def main(stop):
            log = structlog.get_logger()
            for error in (ValueError, RecursionError, Panic):
                log.info("post_seen", value=Bad(error))
            log.info("deep_seen", value=nested)
            log.info("long_seen", value="x" * 100_000)
            logging.getLogger("some.library").warning("%d of them", "secret")
            logging.getLogger("another.library").warning("%s", Bad(Panic))
            def dig(): dig()
            try: dig()
            except RecursionError as error: log.error("dug", exc_info=error)
            log.info("went_on")
        """
    )
    summary = [(event["event"], event.get("about"), event.get("error")) for event in events[:5]]
    assert summary == [
        ("log_line_failed", "post_seen", "ValueError"),
        ("log_line_failed", "post_seen", "RecursionError"),
        ("log_line_failed", "post_seen", "Panic"),
        ("log_line_failed", "deep_seen", "RecursionError"),
        ("log_line_too_long", "long_seen", None),
    ]
    assert [(event["library"], "place" in event) for event in events[5:7]] == [
        ("some.library", True),
        ("another.library", True),
    ]
    assert 10 < len(events[7]["exception"].splitlines()) < 100
    assert [event["event"] for event in events[7:]] == ["dug", "went_on", "process_stopped"]


def test_output_of_python_itself_is_an_event_without_text() -> None:
    events = run(
        """
        import warnings
        class Bad:
            def __del__(self): raise ValueError("secret")
        def fail(): raise KeyError("secret")
        async def main(stop):
            thread = threading.Thread(target=fail, name="sorter")
            thread.start()
            thread.join()
            Bad()
            warnings.warn("old", DeprecationWarning, source=None)
        """
    )
    thread, destructor, *_ = events
    assert (thread["event"], thread["thread"], thread["error"]) == ("thread_failed", "sorter", "KeyError")
    assert " fail" in thread["exception"]
    assert (destructor["event"], destructor["error"]) == ("exception_unraisable", "ValueError")


def test_output_of_libraries_is_counted_and_not_shown() -> None:
    code = """
        from contextlib import suppress
        async def main(stop):
            logs.capture_prints(LogSettings())
            os.write(2, b"a secret\\nand more\\n")
            for _ in range(1000):
                with suppress(BlockingIOError):  # to a library in C it is an error that it takes no notice of
                    os.write(2, b"secret " * 10_000)
            await stop.wait()
    """
    with subprocess.Popen(program(code), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        first = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(30) == 0
    assert json.loads(first)["event"] == "library_printed"
    assert json.loads(first)["bytes"] > 0
    assert "secret" not in first + rest


def test_output_of_libraries_is_shown_if_the_setting_says_so() -> None:
    code = """
        async def main(stop):
            logs.capture_prints(LogSettings(raw=True))
            os.write(2, b"as it is\\n")
    """
    ended = subprocess.run(program(code), stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert ended.stderr.startswith("as it is\n")


@pytest.mark.parametrize(
    ("raised", "code", "name"),
    [
        ("raise Panic('secret')", 1, "Panic"),
        ("await asyncio.to_thread(panic)", 1, "Panic"),
        ("raise SystemExit('secret')", 1, "SystemExit"),
        ("raise SystemExit(0)", 1, "SystemExit"),
        ("raise asyncio.CancelledError('secret')", 1, "CancelledError"),
        ("await asyncio.create_task(leave())", 1, "SystemExit"),
        ("raise KeyboardInterrupt('secret')", 130, "KeyboardInterrupt"),
        ("raise BaseExceptionGroup('secret', [Panic('secret'), errors.DeviceError('lost')])", 3, "DeviceError"),
    ],
)
def test_a_base_exception_ends_a_role_and_only_its_type_is_logged(raised: str, code: int, name: str) -> None:
    events = run(
        f"""
        class Panic(BaseException): pass
        def panic(): raise Panic("secret")
        async def leave(): raise SystemExit(0)
        async def main(stop):
            {raised}
        """,
        check=code,
    )
    assert [(event["event"], event.get("error")) for event in events] == [
        ("process_crashed", name),
        ("process_stopped", None),
    ]
    assert re.search(" (main|leave)", events[0]["exception"])


def command(raised: str, stderr: int | IO[bytes]) -> subprocess.CompletedProcess[str]:
    lines = f"""
        import sys
        from moderation import errors, lifecycle
        class Panic(BaseException): pass
        def run(): raise {raised}
        lifecycle.command(run)
    """
    program = [sys.executable, "-c", textwrap.dedent(lines)]
    return subprocess.run(program, stderr=stderr, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        ("Panic('secret')", 1, "Panic\n"),
        ("ValueError('secret')", 1, "ValueError\n"),
        ("errors.ConfigError('[a] is wrong')", 2, "moderation: [a] is wrong\n"),
        ("BaseExceptionGroup('secret', [Panic('secret'), errors.DeviceError('lost')])", 3, "moderation: lost\n"),
    ],
)
def test_an_error_ends_a_command_with_its_code_and_without_text(raised: str, code: int, text: str) -> None:
    ended = command(raised, subprocess.PIPE)
    assert ended.returncode == code
    assert text in ended.stderr
    assert "secret" not in ended.stderr


@pytest.mark.parametrize("stream", STREAMS)
def test_a_command_ends_with_its_code_for_any_standard_error(stream: str) -> None:
    with ExitStack() as stack:
        assert command("errors.ConfigError('wrong')", STREAMS[stream](stack)).returncode == 2
