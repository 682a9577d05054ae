"""A line of the log says which post and which trace it is about, wherever it was written."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from asyncio import Future
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import structlog
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

from moderation import observability
from moderation.cli import roles
from moderation.errors import ConfigError, ModerationError, PostError
from moderation.inference.encode_pool import EncodePool
from moderation.models.checked import CheckedModel
from moderation.models.fake import Fake
from moderation.models.shared import checkpoint
from moderation.observability import logs
from moderation.settings import LogSettings, Settings, TracesSettings, WorkerSettings
from moderation.types import Content, Question
from tests.support.logged import logging_restored

SPAN = NonRecordingSpan(SpanContext(0xABC, 0x123, is_remote=False, trace_flags=TraceFlags(1)))


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What was logged, once it is called."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    with logging_restored():
        logs.configure(LogSettings(format="json"))

        def lines() -> list[dict[str, Any]]:
            logs.flush()
            return [json.loads(line) for line in written.getvalue().splitlines()]

        yield lines


class Choking(Fake):
    def encode(self, content: Content, questions: Any) -> Any:
        raise RuntimeError(content.text)


async def test_a_line_that_a_thread_logs_has_the_ids_of_its_post_and_trace(log: Any) -> None:
    encoders = EncodePool(CheckedModel(Choking()), WorkerSettings(), lambda: None)

    async def judge(post_id: str) -> None:
        logs.POST.set(post_id)
        with use_span(SPAN), pytest.raises(PostError):
            await encoders.encode(Content("secret", (), ""), [Question("spam", "Is it?")])

    await asyncio.gather(*(asyncio.create_task(judge(f"post-{number}")) for number in range(4)))
    encoders.close(ModerationError("closed"))
    structlog.get_logger().info("process_went_on")
    *lines, last = log()
    assert {line["post_id"] for line in lines} == {f"post-{number}" for number in range(4)}
    assert {line["event"] for line in lines} == {"encode_failed"}
    assert {(line["trace_id"], line["span_id"]) for line in lines} == {(f"{0xABC:032x}", f"{0x123:016x}")}
    assert "secret" not in json.dumps(lines)
    assert not {"post_id", "trace_id", "span_id"} & last.keys()


def test_a_post_id_given_with_an_event_is_kept(log: Any) -> None:
    async def task() -> None:
        logs.POST.set("post-1")
        structlog.get_logger().info("one", post_id="post-2")

    asyncio.run(task())
    assert [line["post_id"] for line in log()] == ["post-2"]


class Place(NamedTuple):
    topic: str
    error: object


def test_a_librarys_line_never_holds_an_exceptions_text(log: Any) -> None:
    error, library = ValueError("what a user wrote"), logging.getLogger("some.library")
    failed = Future[None](loop=asyncio.new_event_loop())
    failed.set_exception(error)
    failed.exception()
    looped: list[object] = [error]
    looped.append(looped)
    library.error(error)
    library.error([error])
    library.error("failed: %(e)s", {"e": error})
    library.error("failed: %(of)s", {"of": {error: [error]}})
    library.error("failed: %s", [error])
    library.error("failed: %s of %s", {"a": (error, {error})}, Place("posts", error))
    library.error("failed: %s", ExceptionGroup("of a user", [error]))
    library.error("failed: %s", failed)
    library.error("failed: %s", looped)
    library.error("%s failed at %s of %s", "it", Place("posts", 3), b"x")
    failed.get_loop().close()
    messages = [line["message"] for line in log()]
    assert len(messages) == 10
    assert "wrote" not in json.dumps(log())
    assert "of a user" not in json.dumps(log())
    assert messages[:4] == [
        "ValueError",
        "['ValueError']",
        "failed: ValueError",
        "failed: {'ValueError': ['ValueError']}",
    ]
    assert messages[6:8] == ["failed: ExceptionGroup", "failed: Future"]
    assert messages[-1] == "it failed at Place(topic='posts', error=3) of b'x'"  # the rest is as it was


def test_a_library_that_formats_messages_into_its_text_is_logged_by_place(log: Any) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ConfigError):
            checkpoint.locate("nobody/nothing", None)
    assert not logging.getLogger("huggingface_hub").handlers  # else it writes to standard error by itself
    logging.getLogger("huggingface_hub.utils._http").warning(f"'{ValueError('what a user wrote')}' thrown")
    line = log()[-1]
    assert (line["event"], line["level"], line["library"]) == (
        "library_warned",
        "warning",
        "huggingface_hub.utils._http",
    )
    assert line["place"].startswith("unit/observability/test_logs.py:")
    assert "wrote" not in json.dumps(log())


def test_traces_without_their_extra_are_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moderation.observability.trace_export", None)
    monkeypatch.delattr(observability, "trace_export", raising=False)  # where another test has imported it
    wanted = Settings(traces=TracesSettings(endpoint="http://127.0.0.1:4318"))
    with pytest.raises(ConfigError, match=r"MODERATION_TRACES__ENDPOINT .* pip install 'moderation\[otel\]'"):
        roles.start_trace_export(wanted, "worker")
    roles.start_trace_export(Settings(), "worker")()


def test_a_chain_of_errors_of_any_length_has_its_frames() -> None:
    """A model may raise each error from the last."""
    error: Exception = ValueError("secret")
    for _ in range(5_000):
        later = RuntimeError("secret")
        later.__cause__ = error
        error = later
    text = logs.frames(ExceptionGroup("secret", [error, KeyError("secret")]))
    assert text.startswith("ExceptionGroup\nRuntimeError")
    assert "secret" not in text
    assert len(text) < 20_000
