"""System One against the reference server of jevcompat, as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from jevcompat.mock import MockConfig, respond
from openai import APIStatusError, AsyncOpenAI, AuthenticationError, BadRequestError

from moderation.models.remote.probability import score_of
from moderation.models.remote.systemone import SystemOne
from moderation.models.remote.usage import Usage
from moderation.models.remote.wire import Window
from moderation.policies.prompts import INSTRUCTIONS
from moderation.settings import ModelSettings
from moderation.types import Answer, Question, Reason

KEY = "a-key-of-the-mock"
NAME = "jevcompat-mock-0.1"  # what it reports


@contextmanager
def mock(*faults: str) -> Iterator[str]:
    """The base URL of a server that has these faults."""
    command = [sys.executable, "-m", "jevcompat.cli", "mock", "--port", "0", "--key", KEY]
    command += [option for fault in faults for option in ("--fault", fault)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = process.stderr.readline()  # jevcompat mock on http://127.0.0.1:1234/v1/systemone
        yield said.split()[3].removesuffix("/systemone")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with mock() as url:
        yield url


@asynccontextmanager
async def client_of(url: str, key: str = KEY) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
        yield client


def a_wire(name: str = "jev-latest", **settings: str) -> SystemOne:
    return SystemOne(ModelSettings.model_validate({"name": f"systemone:{name}", "url": "http://127.0.0.1", **settings}))


def a_window(text: str, questions: int, pictures: tuple[bytes, ...] = ()) -> Window:
    asked = tuple(Question(f"p{number}", f"Does the post sell thing {number}?") for number in range(questions))
    return Window(text, pictures, asked, tokens=100)


async def test_every_answer_becomes_the_score_that_the_server_computed(url: str) -> None:
    window = a_window("Кто купит? 你好 ~~~~ 🦆\nline", 64)
    async with client_of(url) as client:
        reply = await a_wire().ask(client, window, range(64))
    assert reply.model == NAME
    # The reference computes each answer from state and instructions alone.
    questions = {f"q{number}": {"type": "noul", "instructions": window.questions[number].text} for number in range(64)}
    state = f"{INSTRUCTIONS}\nThe post's text:\n~~~~~\nКто купит? 你好 ~~~~ 🦆\nline\n~~~~~"
    expected = respond(MockConfig(), {"state": state, "questions": questions})
    assert reply.answers == tuple(score_of(expected["answers"][f"q{number}"]["noul"]) for number in range(64))
    assert len(set(reply.answers)) == 64
    assert reply.usage == Usage(expected["usage"]["input_tokens"], 0, 128)


async def test_a_question_has_one_answer_in_any_request(url: str) -> None:
    window, wire = a_window("pills", 130), a_wire()
    answers: list[Answer] = []
    async with client_of(url) as client:
        for group in wire.groups(130):
            answers += (await wire.ask(client, window, group)).answers
        alone = [(await wire.ask(client, window, range(number, number + 1))).answers[0] for number in (0, 63, 64, 129)]
    assert alone == [answers[number] for number in (0, 63, 64, 129)]


async def test_the_name_is_learnt_and_no_made_up_answer_is_taken_for_a_picture(url: str) -> None:
    """The reference takes a field that it does not know, and answers without the pictures in it."""
    wire = a_wire(image_dialect="images")
    async with client_of(url) as client:
        assert (await wire.learn(client)).model == NAME
        assert wire.sees is False
        text = await wire.ask(client, a_window("pills", 1), range(1))
    assert text.answers[0] != Reason.MODEL_FAILED


async def test_errors_of_the_server_come_through(url: str) -> None:
    window = a_window("pills", 1)
    async with client_of(url, "another-key") as client:
        with pytest.raises(AuthenticationError):
            await a_wire().learn(client)
    async with client_of(url) as client:
        with pytest.raises(BadRequestError):
            await a_wire("no-such-model").learn(client)
        with pytest.raises(APIStatusError) as raised:
            await client.post("/systemone", cast_to=object, body={"model": "mock"})
        assert raised.value.status_code == 422
        assert (await a_wire("mock").ask(client, window, range(1))).model == NAME


@pytest.mark.parametrize(
    "faults",
    [("noul-range",), ("boolean-type",), ("xssi-200",), ("noul-range", "no-usage", "nan")],
    ids="+".join,
)
async def test_a_server_that_breaks_the_rules_gives_no_reply(faults: tuple[str, ...]) -> None:
    with mock(*faults) as url:
        async with client_of(url) as client:
            with pytest.raises(ValueError, match=r"^the response"):
                await a_wire().ask(client, a_window("pills", 3), range(3))


async def test_what_can_be_used_is_used() -> None:
    with mock(
        "first-question-only", "extra-answer", "no-usage", "nan", "unprefixed-extra", "plain-content-type"
    ) as url:
        async with client_of(url) as client:
            reply = await a_wire().ask(client, a_window("pills", 3), range(3))
    assert reply.answers[0] != Reason.MODEL_FAILED
    assert reply.answers[1:] == (Reason.MODEL_FAILED, Reason.MODEL_FAILED)
    assert reply.usage == Usage()


async def test_counts_may_be_floats() -> None:
    with mock("float-usage") as url:
        async with client_of(url) as client:
            reply = await a_wire().ask(client, a_window("pills", 3), range(3))
    assert reply.usage.input > 0
    assert reply.usage.output == 6
