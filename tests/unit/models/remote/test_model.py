"""A model behind a real socket: which model answers, what becomes of each kind of answer, and what nobody may read."""

from __future__ import annotations

import asyncio
import io
import logging
import random
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from openai import AsyncOpenAI
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from moderation.errors import ConfigError
from moderation.models.remote import breaker, server
from moderation.models.remote.answers import GREETING
from moderation.models.remote.model import CONFIRMATIONS, ServedModel
from moderation.models.remote.wire import Reply, Window
from moderation.observability import logs
from moderation.settings import LogSettings
from moderation.types import Outcome, Reason, Score
from tests.support.logged import events, logging_restored
from tests.support.model_server import (
    MODEL,
    SECRET,
    Asked,
    ModelServer,
    Play,
    after,
    completion,
    cut,
    error,
    model_server,
    raw,
    reset,
    sends,
)
from tests.support.plain_wire import KEY, POST, PlainWire, a_client, a_model, a_window, model_settings


@pytest.fixture(name="peer")
def _peer() -> Iterator[ModelServer]:
    with model_server() as peer:
        yield peer


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses themselves are test_server.py's."""
    monkeypatch.setattr(server, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(server, "LAST_PAUSE_S", 0.05)
    monkeypatch.setattr(breaker, "FIRST_PROBE_S", 0.05)
    monkeypatch.setattr(breaker, "LAST_PROBE_S", 0.1)


@asynccontextmanager
async def started(peer: ModelServer, **settings: Any) -> AsyncIterator[ServedModel]:
    model = a_model(peer.url, **settings)
    try:
        await model.start()
        yield model
    finally:
        await model.close()


def about(word: str, play: Play) -> Callable[[Asked], Play | None]:
    """This play for requests that hold the word."""
    return lambda asked: play if word in asked.text else None


async def answered(model: ServedModel, text: str = POST, questions: int = 1) -> Sequence[Sequence[Any]]:
    async with asyncio.timeout(30):
        return await model.answer(a_window(text, questions))


async def probability(model: ServedModel, text: str = POST) -> float:
    ((score,),) = await answered(model, text)
    assert isinstance(score, Score)
    assert score.sound
    return score.probability


async def test_a_window_gets_an_answer_to_each_question(peer: ModelServer) -> None:
    async with started(peer) as model:
        peer.choose = lambda asked: completion(0.9) if "Is it 2?" in asked.text else None
        ((*scores,),) = await answered(model, "says:0.25", 4)
    assert [round(score.probability, 6) for score in scores] == [0.25, 0.25, 0.9, 0.25]


@pytest.mark.parametrize(
    ("name", "allowed", "alias", "strictest"),
    [
        (f"openai:{MODEL}", False, False, Outcome.REMOVE),
        ("openai:scripted-latest", False, True, Outcome.REVIEW),
        ("openai:scripted-latest", True, True, Outcome.REMOVE),
    ],
)
async def test_another_name_than_the_one_asked_for_is_an_alias(
    peer: ModelServer, name: str, allowed: bool, alias: bool, strictest: Outcome
) -> None:
    async with started(peer, name=name, alias_may_remove=allowed) as model:
        assert (model.info.name, model.info.revision, model.info.alias) == (name, MODEL, alias)
        assert model.strictest is strictest


async def test_the_digest_holds_all_that_decides_who_answers_how(peer: ModelServer) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"name": "openai:scripted-latest"},
        {"name": f"decisions:{MODEL}"},
        {"window_tokens": 4_096},
        {"window_overlap": 128},
        {"alias_may_remove": True},
    ]
    digests = []
    for fields in settings:
        async with started(peer, **fields) as model:
            digests.append(model.info.digest)
    peer.otherwise = completion(model="scripted-2")
    async with started(peer) as model:
        digests.append(model.info.digest)
    with model_server() as other:
        async with started(other) as model:
            digests.append(model.info.digest)
    assert len(set(digests)) == len(digests)
    peer.otherwise = completion()
    async with started(peer, concurrency=1, outage_s=7, budget_per_hour=1, input_price=1) as model:
        assert model.info.digest == digests[0], "what decides nothing is not in it"


@pytest.mark.parametrize(
    ("play", "words"),
    [
        (error(401), "HTTP 401.*check the key"),
        (error(403), "HTTP 403.*check the key"),
        (error(404), "HTTP 404.*serves 'scripted-1'"),
        (error(400), "HTTP 400.*wire 'openai'"),
        (error(302, location="http://127.0.0.1:9/"), "HTTP 302.*final URL"),
        (sends(200, "<html>", content_type="text/html"), "malformed.*often it ends in /v1"),
    ],
)
async def test_wrong_settings_end_the_start_and_the_error_says_what_to_do(
    peer: ModelServer, play: Play, words: str
) -> None:
    peer.otherwise = play
    with pytest.raises(ConfigError, match=words) as caught:
        async with started(peer):
            pass
    assert peer.url in str(caught.value)
    assert not re.search(f"{KEY}|{SECRET}", str(caught.value))


async def test_posts_in_hand_wait_in_an_outage_and_then_get_their_own_scores(peer: ModelServer) -> None:
    async with started(peer, outage_s=30, concurrency=4) as model:
        pauses: list[bool] = []
        model.on_change(lambda: pauses.append(model.paused))
        gate = threading.Event()
        peer.otherwise = after(gate, completion())
        texts = [f"says:0.{number}" for number in range(10, 30)]
        asking = [asyncio.create_task(probability(model, text)) for text in texts]
        await changed_after(lambda: peer.at_once == 4)
        assert len(peer.requests) == 1 + 4, "the start's, and as many as there are places"
        peer.down()
        gate.set()
        await changed_after(lambda: pauses == [True])
        assert not any(task.done() for task in asking)
        peer.up()
        assert [round(value, 6) for value in await asyncio.gather(*asking)] == [float(text[5:]) for text in texts]
        assert pauses == [True, False]


async def changed_after(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  a server in threads has no event
            await asyncio.sleep(0.01)


async def test_after_the_longest_outage_a_post_is_unavailable_at_once(peer: ModelServer) -> None:
    async with started(peer, outage_s=0.3) as model:
        peer.down()
        assert await answered(model, questions=3) == [(Reason.UNAVAILABLE,) * 3]
        before = asyncio.get_running_loop().time()
        assert await answered(model) == [(Reason.UNAVAILABLE,)]
        assert asyncio.get_running_loop().time() - before < 0.2
        peer.up()
        await changed_after(lambda: not model._server.breaker.is_open)
        assert await probability(model, "says:0.7") == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("play", "reason"),
    [
        (error(400), Reason.MODEL_FAILED),
        (error(500), Reason.MODEL_FAILED),
        (cut, Reason.MODEL_FAILED),
        (error(400, code="content_filter"), Reason.CONTENT_FILTERED),
        (completion(model="other"), Reason.MODEL_CHANGED),
        (completion(model=None), Reason.MODEL_CHANGED),
        (sends(200, {"error": {"message": SECRET}}), Reason.MODEL_FAILED),
    ],
)
async def test_one_bad_answer_is_a_reason_and_costs_no_other_question_its_score(
    peer: ModelServer, play: Play, reason: Reason
) -> None:
    async with started(peer) as model:
        peer.choose = about("Is it 1?", play)
        ((first, second, third),) = await answered(model, "says:0.6", 3)
        assert second is reason
        assert first.probability == third.probability == pytest.approx(0.6)
        assert not model.paused


async def test_a_reply_with_too_few_answers_is_no_answer(peer: ModelServer) -> None:
    class Short(PlainWire):
        async def ask(self, client: AsyncOpenAI, window: Window, questions: range) -> Reply:
            return replace(await super().ask(client, window, questions), answers=())

    model = ServedModel(Short(), a_client(peer.url), model_settings(peer.url))
    await model.start()
    assert await answered(model) == [(Reason.MODEL_FAILED,)]
    await model.close()


async def test_another_model_ends_the_process_once_it_is_sure(peer: ModelServer) -> None:
    async with started(peer) as model:
        changed = asyncio.create_task(model.changed())
        peer.otherwise = completion(model="scripted-2")
        assert await answered(model) == [(Reason.MODEL_CHANGED,)]
        async with asyncio.timeout(20):
            await changed
        peer.otherwise = completion()
        assert await answered(model) == [(Reason.MODEL_CHANGED,)], "the digest no longer holds"


async def test_one_stray_answer_of_another_model_ends_nothing(peer: ModelServer) -> None:
    async with started(peer) as model:
        with capture_logs() as logged:
            peer.plays(*[completion(model="scripted-2")] * CONFIRMATIONS)  # the answer, and all but one confirmation
            assert await answered(model) == [(Reason.MODEL_CHANGED,)]
            await changed_after(lambda: bool(events(logged, "model_name_wavered")))
        assert not model._changed.is_set()
        assert await probability(model, "says:0.9") == pytest.approx(0.9)


async def test_a_model_that_started_without_its_name_ends_the_process_when_it_learns_it(peer: ModelServer) -> None:
    peer.down()
    with capture_logs() as logged:
        async with started(peer, outage_s=0.2) as model:
            assert events(logged, "model_name_unknown")
            assert model.info.revision == ""
            assert await answered(model) == [(Reason.UNAVAILABLE,)]
            peer.up()
            async with asyncio.timeout(20):
                await model.changed()
            assert await answered(model) == [(Reason.MODEL_CHANGED,)]


@pytest.mark.parametrize("name", ["x" * 5_000, "a\nb", "\u202e", "\ud800"])
async def test_a_name_that_no_line_can_hold_is_known_by_its_digest(peer: ModelServer, name: str) -> None:
    peer.otherwise = completion(model=name)
    async with started(peer) as model:
        assert re.fullmatch("sha256:[0-9a-f]{64}", model.info.revision)
        assert await probability(model, "says:0.9") == pytest.approx(0.9)


async def test_our_own_question_is_asked_as_posts_are(peer: ModelServer) -> None:
    """What shows that the server works is a request like a post's; it holds nothing of any post."""
    async with started(peer) as model:
        peer.choose = about(POST, error(500))
        assert await answered(model) == [(Reason.MODEL_FAILED,)]
    own = [asked for asked in peer.requests if GREETING.text in asked.text]
    assert len(own) == 1
    assert POST not in own[0].text


FAULTS: list[Play] = [
    completion(),
    completion(),
    error(500),
    error(503, retry_after_ms="5"),
    error(429, retry_after_ms="5"),
    error(400),
    error(403),
    error(400, code="content_filter"),
    error(429, code="insufficient_quota"),
    cut,
    reset,
    raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
    raw(f"no HTTP: {SECRET}\r\n\r\n".encode()),
    sends(200, SECRET, content_type="text/html"),
    sends(200, b"[" * 100_000),
    sends(200, {"error": {"message": SECRET, "code": 500}}),
    sends(200, {"model": SECRET, "choices": []}),
    completion(content=None, logprobs=False),
    completion(usage={"prompt_tokens": -5, "completion_tokens": "many"}),
    completion(usage=None),
    completion(model=SECRET),
]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """All that the process has logged at its most talkative, once it is called."""
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    with logging_restored():
        logs.configure(LogSettings(format="json", level="debug"))
        loggers = [logging.getLogger(name) for name in ("asyncio", "httpx2", "httpcore2")]
        for logger in loggers:
            logger.setLevel(logging.DEBUG)

        def lines() -> str:
            logs.flush()
            return written.getvalue()

        yield lines
        for logger in loggers:
            logger.setLevel(logging.NOTSET)


async def test_through_any_faults_an_answer_is_the_servers_own_or_a_reason_and_no_log_quotes(
    peer: ModelServer, log: Callable[[], str]
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    async with started(peer, outage_s=30) as model:
        peer.choose = lambda asked: None if dice.random() < 0.3 else dice.choice(FAULTS)
        probabilities = [round(dice.uniform(0.01, 0.99), 3) for _ in range(40)]
        texts = [f"{POST} says:{value}" for value in probabilities]
        rows = await asyncio.gather(*(answered(model, text, 2) for text in texts))
        peer.choose = lambda asked: None
        await changed_after(lambda: not model._server.breaker.is_open)
    scored = 0
    for (answers,), value in zip(rows, probabilities, strict=True):
        assert len(answers) == 2
        for answer in answers:
            if isinstance(answer, Score):
                scored += 1
                assert answer.probability == pytest.approx(value, abs=1e-6)
            else:
                assert isinstance(answer, Reason)
    assert scored >= 10
    logged = log()
    assert "model_request_failed" in logged
    assert "model_server_away" in logged
    for public in (logged.replace(f'"reported": "{SECRET}"', ""), str(model.info)):
        assert not re.search(f"{KEY}|{SECRET}|{POST}", public)
    assert not re.search(f"{KEY}|{SECRET}|{POST}", generate_latest().decode())
