"""The wire of OpenAI's Decisions: predicates about an input, each answered with a probability or a refusal."""

from __future__ import annotations

from openai import AsyncOpenAI
from openai.types.decision_create_params import InputUnionMember1, Question
from openai.types.decision_input_part_union_param import DecisionInputPartUnionParam

from moderation.models.remote.answers import answer_of, data_url, document, name_of, reply_of, words_of
from moderation.models.remote.typed import VERSION, TypedWire
from moderation.models.remote.wire import Reply, Window
from moderation.policies import prompts


class Decisions(TypedWire):
    """A Wire: `POST /decisions`."""

    most_questions = 400

    @property
    def mode(self) -> str:
        """See Wire."""
        return f"predicates {VERSION}{' of text' if self.sees is False else ''}"

    async def put(self, client: AsyncOpenAI, window: Window, questions: range) -> Reply:
        """See TypedWire."""
        response = await client.decisions.with_raw_response.create(
            model=self.model,
            input=_input(window),
            questions=[_predicate(window, question) for question in questions],
        )
        read = document(response.content)
        given = read.get("answers")
        names = [answer.get("name") if isinstance(answer, dict) else None for answer in _list(given)]
        if names != [name_of(question) for question in questions]:
            raise ValueError("the response's answers are not those to the questions")
        return reply_of(read, [answer_of(answer, "predicate", "probability") for answer in _list(given)])


def _input(window: Window) -> list[InputUnionMember1]:
    pictures: list[DecisionInputPartUnionParam] = [
        {"type": "input_image", "image_url": data_url(picture)} for picture in window.pictures
    ]
    return [
        {"role": "system", "content": prompts.INSTRUCTIONS},
        {"role": "user", "content": [*pictures, {"type": "input_text", "text": words_of(window)}]},
    ]


def _predicate(window: Window, question: int) -> Question:
    return {"type": "predicate", "name": name_of(question), "instructions": window.questions[question].text}


def _list(given: object) -> list[object]:
    return given if isinstance(given, list) else []
