"""Doubles of decision models, on real sockets. OpenAI's own types and typesafe-sdk's models check each request.

A double answers a question by its last word: yes if the post has that word, or a picture of that colour.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from openai.types.decision import Decision
from openai.types.decision_create_params import DecisionCreateParams
from PIL import Image
from pydantic import TypeAdapter
from typesafe_sdk._schemas.models import Format, SystemOneRequest, SystemOneResponse

from tests.support.json_server import JsonServer, Request

YES, NO = 0.97, 0.04
COLOURS = {"purple": (140, 20, 180), "green": (0, 160, 0), "yellow": (250, 240, 0), "white": (255, 255, 255)}
DECISION = TypeAdapter(DecisionCreateParams)
# Changes a response before it is sent.
Spoil = Callable[[dict[str, Any]], object]


class DecisionModel:
    """What both doubles share. blind: it ignores pictures. refused: words of questions that it refuses."""

    def __init__(self, name: str = "double-1", *, blind: bool = False, refused: Sequence[str] = ()) -> None:
        self.name = name
        self.blind = blind
        self.refused = refused
        self.spoil: Spoil = lambda response: response
        self.faults: list[str] = []  # what was wrong with requests
        self.server = JsonServer(self._checked)

    @property
    def last(self) -> Any:
        """The body of the last request."""
        return self.server.requests[-1].body

    def answer(self, request: Request) -> dict[str, Any]:
        """The response, after the request was checked."""
        raise NotImplementedError

    def probability(self, question: str, text: str, pictures: Sequence[bytes]) -> float | None:
        """None: refused."""
        word = re.findall(r"\w+", question.lower())[-1]
        if word in self.refused:
            return None
        colours = [] if self.blind else [colour(picture) for picture in pictures]
        return YES if word in {*re.findall(r"\w+", text.lower()), *colours} else NO

    def _checked(self, request: Request) -> tuple[int, Any]:
        try:
            response = self.answer(request)
        except Exception as error:  # noqa: BLE001  a thread of the server; the test reads it
            self.faults.append(repr(error))
            return 400, {"error": {"message": repr(error), "type": "invalid_request_error"}}
        spoiled = self.spoil(response)
        return 200, spoiled if isinstance(spoiled, bytes) else json.loads(json.dumps(spoiled))


class DecisionsDouble(DecisionModel):
    """`POST /v1/decisions`."""

    def answer(self, request: Request) -> dict[str, Any]:
        assert request.path == "/v1/decisions"
        body = request.body
        assert listed(DECISION.validate_python(body)) == body, "unknown fields"
        assert 1 <= len(body["questions"]) <= 400
        system, user = body["input"]
        assert (system["role"], user["role"]) == ("system", "user")
        text = "\n".join(part["text"] for part in user["content"] if part["type"] == "input_text")
        pictures = [of_url(part["image_url"]) for part in user["content"] if part["type"] == "input_image"]
        answers: list[dict[str, Any]] = []
        for question in body["questions"]:
            probability = self.probability(question["instructions"], text, pictures)
            if probability is None:
                answers.append({"type": "refusal", "name": question["name"]})
            else:
                answers.append({"type": "predicate", "name": question["name"], "probability": probability})
        response = {
            "model": self.name,
            "answers": answers,
            "usage": {
                "input_tokens": 120,
                "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 0},
                "output_tokens": len(answers),
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 120 + len(answers),
            },
        }
        return Decision.model_validate(response, strict=True).model_dump(mode="json")


class SystemOneDouble(DecisionModel):
    """`POST /v1/systemone`. It reads pictures in one dialect, and ignores those in any other."""

    def __init__(
        self, name: str = "double-1", *, dialect: str = "assets", path: str = "/v1/systemone", **options: Any
    ) -> None:
        super().__init__(name, **options)
        self.dialect = dialect
        self.path = path

    def answer(self, request: Request) -> dict[str, Any]:
        assert request.path == self.path
        body = request.body
        known = SystemOneRequest.model_validate(body)
        assert set(body) <= {"model", "state", "questions", "assets", "images"}
        text, pictures = self._shown(body, known)
        answers = {}
        for name, question in known.questions.items():
            assert question.root.type == "noul"
            assert question.root.criteria is None
            probability = self.probability(str(question.root.instructions), text, pictures)
            if probability is not None:
                answers[name] = {"type": "noul", "noul": probability}
        response = {"model": self.name, "answers": answers, "usage": {"input_tokens": 80, "output_tokens": 2}}
        return SystemOneResponse.model_validate(response).model_dump(mode="json")

    def _shown(self, body: dict[str, Any], known: SystemOneRequest) -> tuple[str, list[bytes]]:
        pictures = []
        if self.dialect == "assets":
            for key, asset in (known.assets or {}).items():
                assert asset.format is Format.jpeg
                assert json.dumps(body["state"]).count(key) == 1
                pictures.append(base64.b64decode(asset.data_base64 or "", validate=True))
        elif self.dialect == "images":
            pictures = [of_url(url) for url in body.get("images", [])]
        elif isinstance(body["state"], list):
            parts = [part for part in body["state"] if not isinstance(part, str)]
            assert all(set(part) == {"type", "image_url"} and part["type"] == "image_url" for part in parts)
            pictures = [of_url(part["image_url"]["url"]) for part in parts]
        state = body["state"]
        return state if isinstance(state, str) else "\n".join(part for part in state if isinstance(part, str)), pictures


def colour(picture: bytes) -> str:
    """The name of the colour in the middle of a JPEG file."""
    with Image.open(io.BytesIO(picture)) as image:
        assert image.format == "JPEG"
        seen = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
    assert isinstance(seen, tuple)
    return min(COLOURS, key=lambda name: sum(abs(a - b) for a, b in zip(COLOURS[name], seen, strict=True)))


def a_jpeg(name: str) -> bytes:
    """A picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (48, 32), COLOURS[name]).save(file, "JPEG", quality=95)
    return file.getvalue()


def of_url(url: str) -> bytes:
    """The JPEG file in a data URL."""
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return base64.b64decode(data, validate=True)


def listed(value: Any) -> Any:
    """With lists in place of iterators, which pydantic checks only when they are read."""
    if isinstance(value, dict):
        return {key: listed(part) for key, part in value.items()}
    return value if isinstance(value, str | int | float | None) else [listed(part) for part in value]
