"""Servers that see no pictures, that count no tokens, that lose what they had at the start, and that are away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation import models
from moderation.errors import ConfigError
from moderation.models.remote.chat import Chat
from moderation.models.remote.model import ServedModel
from moderation.types import Content, Problem, Reason, Score
from tests.support.logged import events
from tests.support.model_server import ModelServer, completion, model_server
from tests.support.plain_wire import PlainWire, a_client, a_model, a_window, model_settings

ANSWERED = "moderation_model_requests_total"


@pytest.fixture(name="peer")
def _peer() -> Iterator[ModelServer]:
    with model_server() as peer:
        yield peer


async def test_a_model_that_sees_no_pictures_is_not_asked_about_any(peer: ModelServer) -> None:
    """No answer counts as one either: it would end the doubt about a server that fails."""
    wire = PlainWire()
    wire.sees = False
    model = ServedModel(wire, a_client(peer.url), model_settings(peer.url))
    await model.start()
    asked, metric = len(peer.requests), REGISTRY.get_sample_value(ANSWERED, {"result": "answered"})
    model._server.breaker.failed()
    window = replace(a_window(questions=2), pictures=(b"a JPEG file",))
    assert await model.answer(window) == [(Reason.PICTURES_UNSEEN, Reason.PICTURES_UNSEEN)]
    assert model._server.breaker._failures == 1
    assert REGISTRY.get_sample_value(ANSWERED, {"result": "answered"}) == metric
    assert len(peer.requests) == asked
    assert await model.answer(a_window("says:0.9")) != [(Reason.PICTURES_UNSEEN,)]
    await model.close()


async def test_a_model_that_sees_no_pictures_is_asked_about_the_text_beside_them(peer: ModelServer) -> None:
    wire = PlainWire()
    wire.sees = False
    model = ServedModel(wire, a_client(peer.url), model_settings(peer.url))
    picture = Image.new("RGB", (8, 8))
    (window,) = windows = model.encode(Content("says:0.9", (picture,), ""), a_window().questions)
    assert (window.pictures, windows.problems) == ((), (Problem(Reason.PICTURES_UNSEEN, "images"),))
    await model.start()
    ((score,),) = await model.answer(window)
    assert isinstance(score, Score)
    (window,) = windows = model.encode(Content("", (picture,), ""), a_window().questions)
    assert (len(window.pictures), windows.problems) == (1, ())
    assert await model.answer(window) == [(Reason.PICTURES_UNSEEN,)]
    await model.close()


@pytest.mark.parametrize(
    ("usage", "prices", "warned"),
    [
        (None, {"input_price": 1.0}, True),
        ({"prompt_tokens": 0, "completion_tokens": 1}, {"input_price": 1.0}, True),
        ({"prompt_tokens": 9, "completion_tokens": 0}, {"output_price": 1.0}, True),
        ({"prompt_tokens": 9, "completion_tokens": 0}, {"input_price": 1.0}, False),
        (None, {}, False),
    ],
)
async def test_a_server_that_counts_no_tokens_is_warned_about_where_prices_are_set(
    peer: ModelServer, usage: Any, prices: dict[str, float], warned: bool
) -> None:
    peer.otherwise = completion(usage=usage)
    with capture_logs() as logged:
        model = ServedModel(Chat(model_settings(peer.url)), a_client(peer.url), model_settings(peer.url, **prices))
        await model.start()
        await model.close()
    assert bool(events(logged, "model_usage_unknown")) is warned


async def test_a_server_that_counts_tokens_is_not_warned_about(peer: ModelServer) -> None:
    with capture_logs() as logged:
        model = a_model(peer.url, input_price=1.0, budget_per_hour=1.0)
        await model.start()
        await model.close()
    assert not events(logged, "model_usage_unknown")


async def test_a_server_that_must_be_asked_in_another_way_now_starts_the_process_again(peer: ModelServer) -> None:
    """As when a provider takes logprobs away. Otherwise the outage would last until somebody restarts the worker."""
    settings = model_settings(peer.url, outage_s=60.0)
    model = ServedModel(Chat(settings), a_client(peer.url), settings, lambda: Chat(settings))
    await model.start()
    before = model.info.digest
    peer.otherwise = completion(logprobs=False)
    asking = asyncio.create_task(model.answer(a_window()))
    await asyncio.wait_for(model.changed(), 30)
    assert await asking == [(Reason.MODEL_CHANGED,)]
    await model.close()
    again = ServedModel(Chat(settings), a_client(peer.url), settings)
    await again.start()
    assert again.info.digest != before
    await again.close()


async def test_a_caller_that_cannot_wait_is_told_that_the_server_is_away(peer: ModelServer) -> None:
    settings = model_settings(peer.url, outage_s=0.2)
    peer.down()
    with pytest.raises(ConfigError, match=r"MODERATION_MODEL__URL \(http://.*\) gives no answer \(unreachable\)"):
        await models.connect(settings, patient=False)
    patient = await models.connect(settings)
    assert (patient.away, patient.info.revision) == ("unreachable", "")
    await patient.close()
