"""Decision models that do not see pictures: found out at the start."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog.testing
from openai import AsyncOpenAI, BadRequestError, InternalServerError

from moderation.models.remote.decisions import Decisions
from moderation.models.remote.probability import score_of
from moderation.models.remote.sight import COLOURS, plate, sees
from moderation.models.remote.systemone import SystemOne
from moderation.models.remote.typed import TypedWire
from moderation.models.remote.usage import Usage
from moderation.models.remote.wire import Reply, Window
from moderation.settings import ModelSettings
from moderation.types import Answer, Question, Reason
from tests.support.decision_models import YES, DecisionModel, DecisionsDouble, SystemOneDouble, a_jpeg, colour
from tests.support.json_server import JsonServer

GREEN = Window("pills", (a_jpeg("green"),), (Question("", "Is it green?"), Question("", "Any pills?")), tokens=10)
TEXT = Window("pills", (), GREEN.questions, tokens=10)


def a_wire(kind: type[TypedWire]) -> TypedWire:
    name = "decisions" if kind is Decisions else "systemone"
    return kind(ModelSettings(name=f"{name}:m", url="http://127.0.0.1/v1"))


@asynccontextmanager
async def client_of(server: JsonServer) -> AsyncIterator[AsyncOpenAI]:
    with server:
        async with AsyncOpenAI(base_url=server.url, api_key="a-key", max_retries=0) as client:
            yield client


KINDS = pytest.mark.parametrize(
    ("kind", "double"), [(Decisions, DecisionsDouble), (SystemOne, SystemOneDouble)], ids=["decisions", "systemone"]
)


@KINDS
async def test_a_model_that_sees_is_asked_about_pictures(
    kind: type[TypedWire], double: Callable[..., DecisionModel]
) -> None:
    wire, model = a_wire(kind), double()
    async with client_of(model.server) as client:
        mode = wire.mode
        await wire.learn(client)
        reply = await wire.ask(client, GREEN, range(2))
    assert reply.answers == (score_of(YES), score_of(YES))
    assert wire.sees
    assert wire.mode == mode
    assert model.faults == []


@KINDS
async def test_a_model_that_ignores_pictures_is_found_out(
    kind: type[TypedWire], double: Callable[..., DecisionModel]
) -> None:
    wire, model = a_wire(kind), double(name="m-1", blind=True)
    async with client_of(model.server) as client:
        mode = wire.mode
        with structlog.testing.capture_logs() as logged:
            assert (await wire.learn(client)).model == "m-1"
            await wire.learn(client)
        assert [event["event"] for event in logged] == ["model_pictures_unseen"]  # once, and not at each probe
        assert wire.sees is False
        assert (await wire.ask(client, TEXT, range(1, 2))).answers == (score_of(YES),)
    assert wire.mode != mode  # so the digest is another one, too


@KINDS
@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_a_server_that_refuses_pictures_serves_texts(
    kind: type[TypedWire], double: Callable[..., DecisionModel], status: int
) -> None:
    wire, model = a_wire(kind), double()
    server = JsonServer(lambda request: (status, {}) if "jpeg" in str(request.body) else (200, model.answer(request)))
    async with client_of(server) as client:
        assert (await wire.learn(client)).answers == (score_of(YES),)
        assert wire.sees is False
        assert (await wire.ask(client, TEXT, range(1, 2))).answers == (score_of(YES),)


@KINDS
async def test_a_failure_shows_nothing_about_pictures(
    kind: type[TypedWire], double: Callable[..., DecisionModel]
) -> None:
    wire, model = a_wire(kind), double()
    failing = [True]
    server = JsonServer(
        lambda request: (500, {}) if failing and "jpeg" in str(request.body) else (200, model.answer(request))
    )
    async with client_of(server) as client:
        with pytest.raises(InternalServerError):
            await wire.learn(client)
        failing.clear()
        await wire.learn(client)
        assert (await wire.ask(client, GREEN, range(1))).answers == (score_of(YES),)


@KINDS
async def test_a_server_that_refuses_all_is_not_learnt(
    kind: type[TypedWire], double: Callable[..., DecisionModel]
) -> None:
    async with client_of(JsonServer(lambda request: (400, {}))) as client:
        with pytest.raises(BadRequestError):
            await a_wire(kind).learn(client)


def answering(*answers: Answer) -> Callable[[Window, range], Any]:
    async def ask(window: Window, questions: range) -> Reply:
        assert len(questions) == len(window.questions) == len(COLOURS)
        return Reply("m", answers, Usage(input=7))

    return ask


@pytest.mark.parametrize(
    ("probabilities", "seen"),
    [
        ((0.9, 0.1, 0.1, 0.1), True),
        ((0.9, 0.1, 0.1, 0.9), False),
        ((0.1, 0.9, 0.1, 0.1), False),
        ((0.5, 0.5, 0.5, 0.5), False),
        ((0.55, 0.45, 0.5, 0.4), False),  # too close to be clear
        ((0.10, 0.01, 0.02, 0.0), True),  # all are low, as of a model that is not calibrated
        ((1.0, 0.99, 0.0, 0.0), True),
    ],
)
async def test_the_right_colour_must_be_clearly_preferred(probabilities: tuple[float, ...], seen: bool) -> None:
    assert await sees(answering(*map(score_of, probabilities))) == (seen, Usage(input=7))


async def test_a_refusal_to_look_is_no_sight() -> None:
    answers = (score_of(0.9), Reason.REFUSED, score_of(0.1), score_of(0.1))
    assert await sees(answering(*answers)) == (False, Usage(input=7))


def test_the_plate_has_the_first_colour() -> None:
    assert [colour(picture) for picture in plate().pictures] == [COLOURS[0]]
