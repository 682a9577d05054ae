"""The wire of System One, against a double whose requests and responses typesafe-sdk's models check."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI
from pydantic import SecretStr
from typesafe_sdk import Image, Noul, TypeSafeClient

from moderation.models.remote import client as clients
from moderation.models.remote.probability import score_of
from moderation.models.remote.systemone import SystemOne
from moderation.models.remote.usage import Usage
from moderation.models.remote.wire import Window
from moderation.policies import prompts
from moderation.settings import ModelSettings
from moderation.types import Question, Reason
from tests.support.decision_models import NO, YES, SystemOneDouble, a_jpeg

Dialect = Literal["assets", "images", "state"]
DIALECTS: tuple[Dialect, ...] = ("assets", "images", "state")
PICTURES = (a_jpeg("green"), a_jpeg("yellow"))


@pytest.fixture
def double() -> Iterator[SystemOneDouble]:
    double = SystemOneDouble("jev-1.14.0", refused=["weapons"])
    with double.server:
        yield double
    assert double.faults == []


@pytest.fixture
async def client(double: SystemOneDouble) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(double) as client:
        yield client


@asynccontextmanager
async def client_of(double: SystemOneDouble, path: str = "") -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=double.server.url + path, api_key="a-key", max_retries=0) as client:
        yield client


def a_wire(dialect: Dialect = "assets", url: str = "http://127.0.0.1/v1") -> SystemOne:
    return SystemOne(ModelSettings(name="systemone:jev-latest", url=url, image_dialect=dialect))


def a_window(text: str, *words: str, pictures: tuple[bytes, ...] = ()) -> Window:
    """Each word is asked for by a question."""
    return Window(text, pictures, tuple(Question(word, f"Does the post show {word}?") for word in words), tokens=100)


async def test_each_question_gets_a_score(client: AsyncOpenAI) -> None:
    reply = await a_wire().ask(client, a_window("Cheap pills here", "pills", "spiders", "cheap"), range(3))
    assert reply.answers == (score_of(YES), score_of(NO), score_of(YES))
    assert reply.model == "jev-1.14.0"
    assert reply.usage == Usage(input=80, output=2)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_request_without_pictures_is_the_same_in_each_dialect(
    client: AsyncOpenAI, double: SystemOneDouble, dialect: Dialect
) -> None:
    await a_wire(dialect).ask(client, a_window("A fence: ~~~~", "fence", "pills", "spiders"), range(1, 3))
    assert double.last == {
        "model": "jev-latest",
        "state": f"{prompts.INSTRUCTIONS}\nThe post's text:\n~~~~~\nA fence: ~~~~\n~~~~~",
        "questions": {
            "q1": {"type": "noul", "instructions": "Does the post show pills?"},
            "q2": {"type": "noul", "instructions": "Does the post show spiders?"},
        },
    }
    assert double.server.requests[-1].headers["authorization"] == "Bearer a-key"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_pictures_are_seen(dialect: Dialect) -> None:
    double = SystemOneDouble(dialect=dialect)
    window = a_window("Cheap pills", "green", "white", "yellow", "pills", pictures=PICTURES)
    with double.server:
        async with client_of(double) as client:
            reply = await a_wire(dialect).ask(client, window, range(4))
    assert double.faults == []
    assert reply.answers == (score_of(YES), score_of(NO), score_of(YES), score_of(YES))


async def test_assets_stand_before_the_text(client: AsyncOpenAI, double: SystemOneDouble) -> None:
    await a_wire().ask(client, a_window("green", "green", pictures=PICTURES), range(1))
    first, second = double.last["assets"]
    assert double.last["state"] == f"{prompts.INSTRUCTIONS}\n{first}\n{second}\nThe post's text:\n~~~\ngreen\n~~~"


async def test_openrouter_gets_strings_and_image_parts() -> None:
    double = SystemOneDouble(dialect="state")
    with double.server:
        async with client_of(double) as client:
            await a_wire("state").ask(client, a_window("", "green", pictures=PICTURES), range(1))
    instructions, first, second, text = double.last["state"]
    assert (instructions, text) == (prompts.INSTRUCTIONS, prompts.NO_TEXT)
    assert (first["type"], second["type"]) == ("image_url", "image_url")
    assert set(double.last) == {"model", "state", "questions"}  # a field `images` would be refused there


async def test_no_text_can_name_an_asset(client: AsyncOpenAI, double: SystemOneDouble) -> None:
    """A user who knows another post's requests repeats a key of them. The double counts each key in the state."""
    wire = a_wire()
    await wire.ask(client, a_window("green", "green", pictures=PICTURES), range(1))
    known = " ".join(double.last["assets"])
    reply = await wire.ask(client, a_window(known, "green", "white", pictures=PICTURES), range(2))
    assert reply.answers == (score_of(YES), score_of(NO))
    assert not set(double.last["assets"]) & set(known.split())


async def test_equal_pictures_are_two_assets(client: AsyncOpenAI, double: SystemOneDouble) -> None:
    window = a_window("", "green", pictures=(PICTURES[0], PICTURES[0]))
    await a_wire().ask(client, window, range(1))
    keys = list(double.last["assets"])
    assert len(keys) == 2
    await a_wire().ask(client, window, range(1))
    assert list(double.last["assets"]) == keys


@pytest.mark.parametrize("path", ["/api/alpha/decisions", "/v2/systemone", "/v2/systemone/"])
async def test_a_url_may_name_the_endpoint(path: str) -> None:
    double = SystemOneDouble(path=path.rstrip("/"))
    with double.server:
        url = double.server.url.removesuffix("/v1") + path
        settings = ModelSettings(name="systemone:jev-latest", url=url, api_key=SecretStr("a-key"))
        async with clients.client_of(settings) as client:
            reply = await SystemOne(settings).ask(client, a_window("pills", "pills"), range(1))
    assert double.faults == []
    assert reply.answers == (score_of(YES),)
    assert double.server.requests[-1].headers["authorization"] == "Bearer a-key"


@pytest.mark.parametrize(("questions", "sizes"), [(1, [1]), (64, [64]), (65, [64, 1]), (200, [64, 64, 64, 8])])
def test_a_request_has_at_most_64_questions(questions: int, sizes: list[int]) -> None:
    groups = a_wire().groups(questions)
    assert [len(group) for group in groups] == sizes
    assert [number for group in groups for number in group] == list(range(questions))


def first(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    """Changes fields of the first answer."""
    return lambda response: response | {"answers": response["answers"] | {"q0": response["answers"]["q0"] | fields}}


def with_first(answer: object) -> Callable[[dict[str, Any]], Any]:
    return lambda response: response | {"answers": response["answers"] | {"q0": answer}}


@pytest.mark.parametrize(
    "spoil",
    [
        first(noul=1.5),
        first(noul=float("nan")),
        first(noul=None),
        first(noul=False),
        first(noul="0.5"),
        first(type="boolean"),
        with_first(None),
        with_first("secret"),
        with_first([]),
        lambda response: response | {"answers": {"q1": response["answers"]["q1"]}},
    ],
)
async def test_one_answer_that_is_none_fails_alone(
    client: AsyncOpenAI, double: SystemOneDouble, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    double.spoil = spoil
    reply = await a_wire().ask(client, a_window("pills", "spiders", "pills"), range(2))
    assert reply.answers == (Reason.MODEL_FAILED, score_of(YES))


async def test_a_refusal_is_an_answer(client: AsyncOpenAI, double: SystemOneDouble) -> None:
    """The SDK's models know none, but gateways pass on those of models behind them."""
    double.spoil = with_first({"type": "refusal"})
    reply = await a_wire().ask(client, a_window("pills", "spiders", "pills"), range(2))
    assert reply.answers == (Reason.REFUSED, score_of(YES))


async def test_other_answers_and_fields_do_not_matter(client: AsyncOpenAI, double: SystemOneDouble) -> None:
    double.spoil = lambda response: {
        **response,
        "x_latency": float("nan"),
        "answers": response["answers"] | {"another": "secret"},
    }
    reply = await a_wire().ask(client, a_window("pills", "pills"), range(1))
    assert reply.answers == (score_of(YES),)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda response: b"<html>secret</html>",
        lambda response: {"detail": "secret"},
        lambda response: [response],
        lambda response: response | {"answers": None},
        lambda response: response | {"answers": list(response["answers"].values())},
        lambda response: response | {"answers": {}},
        lambda response: response | {"answers": {"secret": response["answers"]["q0"]}},
    ],
)
async def test_a_malformed_response_is_no_reply(
    client: AsyncOpenAI, double: SystemOneDouble, spoil: Callable[[dict[str, Any]], Any]
) -> None:
    double.spoil = spoil
    with pytest.raises(ValueError, match=r"^the response") as raised:
        await a_wire().ask(client, a_window("pills", "spiders", "pills"), range(2))
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_mode_names_the_dialect(dialect: Dialect) -> None:
    assert a_wire(dialect).mode == f"noul 1 with {dialect}"


def test_the_double_reads_what_the_official_client_sends() -> None:
    """The client sends the files as parts, so only the request's own shape can be compared."""
    picture = Image(PICTURES[0])
    assert str(picture).startswith("<image:")
    assert len(str(picture)) == len(f"<image:{hashlib.sha256().hexdigest()[:32]}>")
    double = SystemOneDouble()
    with double.server, TypeSafeClient(api_key="a-key", base_url=double.server.url.removesuffix("/v1")) as client:
        answered = client.system_one("pills", {"one": Noul(instructions="Does it name pills?")}, model="jev-latest")
    assert answered.answers["one"].noul == YES  # type: ignore[union-attr]
    assert set(double.last) == {"model", "state", "questions"}
