"""The wire of Decisions, against a double whose requests and responses OpenAI's own types check."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from moderation.models.remote.decisions import Decisions
from moderation.models.remote.probability import score_of
from moderation.models.remote.usage import Usage
from moderation.models.remote.wire import Window, Wire
from moderation.policies import prompts
from moderation.settings import ModelSettings
from moderation.types import Question, Reason
from tests.support.decision_models import NO, YES, DecisionsDouble, a_jpeg, colour, of_url

NAME = "decisions:gpt-6-luna"


@pytest.fixture
def double() -> Iterator[DecisionsDouble]:
    double = DecisionsDouble("gpt-6-luna-2026-10-06", refused=["weapons"])
    with double.server:
        yield double
    assert double.faults == []


@pytest.fixture
async def client(double: DecisionsDouble) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=double.server.url, api_key="a-key", max_retries=0) as client:
        yield client


@pytest.fixture
def wire() -> Decisions:
    return Decisions(ModelSettings(name=NAME))


def a_window(text: str = "", *words: str, pictures: tuple[bytes, ...] = ()) -> Window:
    """Each word is asked for by a question."""
    return Window(text, pictures, tuple(Question(word, f"Does the post show {word}?") for word in words), tokens=100)


async def test_each_predicate_gets_a_score(wire: Wire, client: AsyncOpenAI) -> None:
    window = a_window("Cheap pills here", "pills", "spiders", "cheap")
    reply = await wire.ask(client, window, range(3))
    assert reply.answers == (score_of(YES), score_of(NO), score_of(YES))
    assert reply.model == "gpt-6-luna-2026-10-06"
    assert reply.usage == Usage(input=120, cached=100, output=3)


async def test_a_request_holds_the_prompt(wire: Wire, client: AsyncOpenAI, double: DecisionsDouble) -> None:
    await wire.ask(client, a_window("A fence: ~~~~", "fence", "pills", "spiders"), range(1, 3))
    assert double.last == {
        "model": "gpt-6-luna",
        "input": [
            {"role": "system", "content": prompts.INSTRUCTIONS},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "The post's text:\n~~~~~\nA fence: ~~~~\n~~~~~"},
                ],
            },
        ],
        "questions": [
            {"type": "predicate", "name": "q1", "instructions": "Does the post show pills?"},
            {"type": "predicate", "name": "q2", "instructions": "Does the post show spiders?"},
        ],
    }
    assert double.server.requests[-1].headers["authorization"] == "Bearer a-key"


async def test_pictures_are_seen_in_their_order(wire: Wire, client: AsyncOpenAI, double: DecisionsDouble) -> None:
    window = a_window("", "green", "white", "yellow", pictures=(a_jpeg("green"), a_jpeg("yellow")))
    reply = await wire.ask(client, window, range(3))
    assert reply.answers == (score_of(YES), score_of(NO), score_of(YES))
    green, yellow, text = double.last["input"][1]["content"]
    assert [colour(of_url(part["image_url"])) for part in (green, yellow)] == ["green", "yellow"]
    assert text == {"type": "input_text", "text": prompts.NO_TEXT}


async def test_a_refusal_is_an_answer(wire: Wire, client: AsyncOpenAI) -> None:
    reply = await wire.ask(client, a_window("pills", "pills", "weapons"), range(2))
    assert reply.answers == (score_of(YES), Reason.REFUSED)


async def test_refusals_alone_are_answers(wire: Wire, client: AsyncOpenAI) -> None:
    reply = await wire.ask(client, a_window("pills", "weapons"), range(1))
    assert reply.answers == (Reason.REFUSED,)


@pytest.mark.parametrize(("questions", "sizes"), [(1, [1]), (400, [400]), (401, [400, 1]), (1000, [400, 400, 200])])
def test_a_request_has_at_most_400_predicates(wire: Wire, questions: int, sizes: list[int]) -> None:
    groups = wire.groups(questions)
    assert [len(group) for group in groups] == sizes
    assert [number for group in groups for number in group] == list(range(questions))


async def test_a_full_request_is_answered(wire: Wire, client: AsyncOpenAI) -> None:
    words = ["pills" if number == 399 else "spiders" for number in range(400)]
    reply = await wire.ask(client, a_window("pills", *words), range(400))
    assert reply.answers == (score_of(NO),) * 399 + (score_of(YES),)


def first(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    """Changes fields of the first answer."""
    return lambda response: response | {"answers": [response["answers"][0] | fields, *response["answers"][1:]]}


@pytest.mark.parametrize(
    "spoil",
    [
        first(probability=1.5),
        first(probability=-0.5),
        first(probability=float("nan")),
        first(probability=float("inf")),
        first(probability=None),
        first(probability=True),
        first(probability="0.5"),
        first(type="choice"),
        first(type=["predicate"]),
    ],
)
async def test_one_answer_that_is_none_fails_alone(
    wire: Wire, client: AsyncOpenAI, double: DecisionsDouble, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    double.spoil = spoil
    reply = await wire.ask(client, a_window("pills", "spiders", "pills"), range(2))
    assert reply.answers == (Reason.MODEL_FAILED, score_of(YES))
    with pytest.raises(ValueError, match=r"^the response has no answer that can be read$"):
        await wire.ask(client, a_window("pills", "pills"), range(1))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda response: b"<html>secret</html>",
        lambda response: b"",
        lambda response: b'"secret"',
        lambda response: b"[" * 100_000,
        lambda response: b'{"model": "\xff"}',
        lambda response: {"error": {"message": "secret"}},
        lambda response: response | {"answers": None},
        lambda response: response | {"answers": {"q0": response["answers"][0]}},
        lambda response: response | {"answers": ["secret", "secret"]},
        lambda response: response | {"answers": response["answers"][:1]},
        lambda response: response | {"answers": response["answers"] * 2},
        lambda response: response | {"answers": response["answers"][::-1]},
        first(name=None),
        first(name=["q0"]),
        first(name="secret"),
    ],
)
async def test_a_malformed_response_is_no_reply(
    wire: Wire, client: AsyncOpenAI, double: DecisionsDouble, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    double.spoil = spoil
    with pytest.raises(ValueError, match=r"^the response") as raised:
        await wire.ask(client, a_window("pills", "spiders", "pills"), range(2))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("model", [None, 7, ["gpt"]])
async def test_a_model_without_a_name_reports_none(
    wire: Wire, client: AsyncOpenAI, double: DecisionsDouble, model: object
) -> None:
    double.spoil = lambda response: response | {"model": model}
    assert (await wire.ask(client, a_window("pills", "pills"), range(1))).model == ""


@pytest.mark.parametrize(
    ("reported", "counted"),
    [
        (None, Usage()),
        ([], Usage()),
        ({"input_tokens": -1, "output_tokens": True}, Usage()),
        ({"input_tokens": 12.0, "output_tokens": "9"}, Usage(input=12)),
        ({"input_tokens": float("nan"), "output_tokens": float("inf")}, Usage()),
        ({"input_tokens": 10, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 50}}, Usage(10, 10, 2)),
        ({"input_tokens": 10, "output_tokens": 2, "input_tokens_details": None}, Usage(10, 0, 2)),
    ],
)
async def test_tokens_are_counted_where_they_are_counts(
    wire: Wire, client: AsyncOpenAI, double: DecisionsDouble, reported: object, counted: Usage
) -> None:
    double.spoil = lambda response: response | {"usage": reported}
    assert (await wire.ask(client, a_window("pills", "pills"), range(1))).usage == counted


async def test_an_error_of_the_client_comes_through(wire: Wire, client: AsyncOpenAI, double: DecisionsDouble) -> None:
    with pytest.raises(BadRequestError):
        await wire.ask(client, Window("pills", (b"no picture",), (Question("", "Is it green?"),), tokens=1), range(1))
    assert double.faults.pop().startswith("UnidentifiedImageError")


async def test_the_first_question_learns_the_name_and_the_cost(
    wire: Wire, client: AsyncOpenAI, double: DecisionsDouble
) -> None:
    reply = await wire.learn(client)
    assert reply.model == "gpt-6-luna-2026-10-06"
    assert reply.answers == (score_of(YES),)
    assert reply.usage == Usage(input=240, cached=200, output=5)  # of two requests: one shows a picture
    assert wire.mode == "predicates 1"
    assert len(double.server.requests) == 2
    await wire.learn(client)  # as a probe: the picture was shown once and for all
    assert len(double.server.requests) == 3
