"""What a model says in words is a yes, a no, or no answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from moderation.models.remote.completion import Completion
from moderation.types import Answer, Reason, YesNo


def said(content: Any) -> Answer:
    return Completion.model_validate_json(json.dumps({"choices": [{"message": {"content": content}}]})).said


@pytest.mark.parametrize(
    "content", ["Yes", " yes.", "**YES**", "Yes, it does.", "Yes\nbecause", '"Yes"', '{"answer": "Yes"}']
)
def test_a_yes(content: str) -> None:
    assert said(content) == YesNo(yes=True)


@pytest.mark.parametrize(
    "content", ["No", "no!", "_No_", "No: it is quiet", '{"answer": "No"}', '{\n  "answer": "No"\n}']
)
def test_a_no(content: str) -> None:
    assert said(content) == YesNo(yes=False)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "No answer is possible",
        "Yesterday",
        "Not sure",
        "I say yes",
        "Maybe",
        '{"answer": true}',
        '{"answer": "Perhaps"}',
        '{"answer": "Ye',
        "[" * 100_000,
        None,
        ["Yes"],
    ],
)
def test_other_words_are_no_answer(content: Any) -> None:
    assert said(content) is Reason.NO_ANSWER


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": "9", "completion_tokens": -3}])
def test_a_server_need_not_count_tokens(usage: Any) -> None:
    completion = Completion.model_validate_json(json.dumps({"choices": [{"message": {}}], "usage": usage}))
    assert (completion.tokens.input, completion.tokens.output) == (0, 0)
