"""What leaves for a model server around every attack: the roles, the fence and the question are the service's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from moderation import models
from moderation.models.remote.content import CONTROL, harmless
from moderation.policies import prompts
from moderation.settings import ModelSettings
from moderation.types import Content, Question
from tests.hostile.injection.texts import TEXTS
from tests.support.builders import an_image
from tests.support.chat_model import ChatModel
from tests.support.decision_models import DecisionsDouble, SystemOneDouble

QUESTION = Question("spam", "Does the post say spam")
DOUBLES: dict[str, Callable[[], Any]] = {
    "openai:double-1": ChatModel,
    "decisions:double-1": lambda: DecisionsDouble("double-1"),
    "systemone:double-1": lambda: SystemOneDouble("double-1"),
}


def around(text: str) -> str:
    """The words about a post, with its text between fences that it cannot close."""
    mark = prompts.fence(harmless(text))
    return f"{prompts.FENCED}\n{mark}\n{harmless(text)}\n{mark}"


def shown(name: str, body: Any, *, pictures: int) -> tuple[str, Any]:
    """The words about the post in a request, and the rest of the request without them."""
    rest = json.loads(json.dumps(body))
    if name.startswith("openai"):
        assert [message["role"] for message in body["messages"]] == ["system", "user"]
        assert body["messages"][0]["content"] == prompts.INSTRUCTIONS
        content = body["messages"][1]["content"]
        words = content[-1]["text"] if pictures else content
        rest["messages"][1]["content"] = ""
        question = "\n" + prompts.asked(QUESTION.text)
        assert words.endswith(question)
        return words.removesuffix(question), rest
    if name.startswith("decisions"):
        assert [part["role"] for part in body["input"]] == ["system", "user"]
        assert body["input"][0]["content"] == prompts.INSTRUCTIONS
        words = body["input"][1]["content"][-1]["text"]
        rest["input"][1]["content"] = ""
        return words, rest
    state = body["state"]
    beginning = "\n".join([prompts.INSTRUCTIONS, *body.get("assets", ())]) + "\n"
    assert state.startswith(beginning)
    assert len(body.get("assets", ())) == pictures
    rest.pop("assets", None)
    rest["state"] = ""
    return state.removeprefix(beginning), rest


@pytest.mark.parametrize("name", DOUBLES)
@pytest.mark.parametrize("pictures", [0, 1])
async def test_a_users_words_stay_between_the_fences(name: str, pictures: int) -> None:
    double = DOUBLES[name]()
    with double.server:
        model = await models.connect(ModelSettings(name=name, url=double.server.url))
        try:
            rests = []
            for title, text in {"harmless": "hello", **TEXTS}.items():
                windows = model.encode(Content(text, (an_image(),) * pictures, "d"), [QUESTION])
                for number, window in enumerate(windows):
                    await model.answer(window)
                    words, rest = shown(name, double.server.requests[-1].body, pictures=pictures)
                    rests.append(rest)
                    assert not CONTROL.search(words), title
                    lines = words.split("\n")
                    assert lines[0] == prompts.FENCED
                    assert lines.count(lines[1]) == 2, title
                    assert set(lines[1]) == {"~"}
                    assert lines[-1] == lines[1], title
                    if number == 0:
                        assert words == around(text), title
            assert all(rest == rests[0] for rest in rests), "the rest of a request does not depend on the text"
        finally:
            await model.close()
    assert double.faults == []
