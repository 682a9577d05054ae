"""A window that is too long for a model server: it is asked in parts, and no part takes an answer from another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from openai import AsyncOpenAI

from moderation.models.remote import content as contents
from moderation.models.remote.model import MAX_HALVINGS, ServedModel
from moderation.models.remote.wire import Reply, Window
from moderation.types import Reason, Score
from tests.support.model_server import Asked, ModelServer, Play, error, model_server
from tests.support.plain_wire import PlainWire, a_client, a_model, a_window, model_settings


@pytest.fixture(name="peer")
def _peer() -> Iterator[ModelServer]:
    with model_server() as peer:
        yield peer


@asynccontextmanager
async def started(peer: ModelServer) -> AsyncIterator[ServedModel]:
    model = a_model(peer.url)
    try:
        await model.start()
        yield model
    finally:
        await model.close()


async def answered(model: ServedModel, text: str, questions: int) -> Sequence[Sequence[Any]]:
    return await model.answer(a_window(text, questions))


class Context:
    """A server that takes so many characters, and how often it was asked."""

    def __init__(self, longest: int) -> None:
        self.longest, self.refused = longest, 0

    def __call__(self, asked: Asked) -> Play | None:
        if len(asked.text) <= self.longest:
            return None
        self.refused += 1
        return error(400, code="context_length_exceeded")


def in_two(window: Window) -> list[Window]:
    middle = len(window.text) // 2
    return [replace(window, text=text) for text in (window.text[:middle], window.text[middle:]) if len(text) > 1]


async def test_a_window_that_is_too_long_for_the_server_is_asked_in_parts(
    peer: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "halves", in_two)
    async with started(peer) as model:
        peer.choose = Context(100)
        rows = await answered(model, "x" * 300 + " says:0.9", 2)
        assert [[round(score.probability, 6) for score in row] for row in rows] == [[0.03] * 2] * 3 + [[0.9] * 2]


async def test_a_window_that_stays_too_long_costs_few_requests(
    peer: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "halves", in_two)
    async with started(peer) as model:
        peer.choose = context = Context(0)
        assert await answered(model, "x" * 10_000, 2) == [(Reason.MODEL_FAILED,) * 2]
        assert context.refused == 2 * (2 * MAX_HALVINGS + 1)
        assert not model.paused


async def test_a_part_that_stays_too_long_takes_no_answer_from_the_others(
    peer: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "halves", in_two)
    async with started(peer) as model:
        peer.choose = lambda asked: error(400, code="context_length_exceeded") if "long" in asked.text else None
        rows = await answered(model, "long" + "x" * 300 + " says:0.9", 2)
        assert rows[0] == (Reason.MODEL_FAILED,) * 2
        assert len(rows) == MAX_HALVINGS + 1
        assert [round(score.probability, 6) for row in rows[1:] for score in row] == [0.03] * 6 + [0.9] * 2


async def test_a_question_that_stays_too_long_takes_no_answer_from_the_others(peer: ModelServer) -> None:
    async with started(peer) as model:
        peer.choose = lambda asked: error(400, code="context_length_exceeded") if "Is it 1?" in asked.text else None
        ((first, second),) = await answered(model, "short says:0.9", 2)
        assert isinstance(first, Score)
        assert second is Reason.MODEL_FAILED


async def test_a_picture_that_is_too_large_for_the_server_takes_no_answer_from_the_others(peer: ModelServer) -> None:
    """The double sees no pictures, so the wire says in words which picture is shown."""

    class Shown(PlainWire):
        async def ask(self, client: AsyncOpenAI, window: Window, questions: range) -> Reply:
            names = " ".join(picture.decode() for picture in window.pictures)
            return await super().ask(client, replace(window, text=f"{names} {window.text}"), questions)

    model = ServedModel(Shown(), a_client(peer.url), model_settings(peer.url))
    await model.start()
    peer.choose = lambda asked: error(400, code="context_length_exceeded") if "huge" in asked.text else None
    window = replace(a_window("says:0.9"), pictures=tuple(name.encode() for name in ("huge", "a", "b", "c")))
    rows = await model.answer(window)
    assert [row == (Reason.MODEL_FAILED,) for row in rows] == [True, False, False]
    await model.close()
