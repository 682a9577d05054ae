"""The wire of System One: a state with named yes/no questions (`noul`), each answered with a probability."""

from __future__ import annotations

import base64
import hashlib

import httpx2
from openai import AsyncOpenAI

from moderation.models.remote.answers import answer_of, data_url, document, name_of, reply_of, words_of
from moderation.models.remote.typed import VERSION, TypedWire
from moderation.models.remote.wire import Reply, Window
from moderation.policies import prompts
from moderation.settings import ModelSettings

ENDPOINTS = ("/systemone", "/decisions")  # a URL that ends so is the endpoint; any other is the base of one


class SystemOne(TypedWire):
    """A Wire: `POST /systemone`.

    Dialects of pictures, as the setting image_dialect names them:

    - assets: the state names each picture where it stands; `assets` holds the files
    - images: `images` holds data URLs, which stand before the state
    - state: the state is a list of strings and of image parts
    """

    most_questions = 64  # at the servers with the lowest limit

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._dialect = settings.image_dialect
        url = settings.url.rstrip("/")
        self._path = url if url.endswith(ENDPOINTS) else ENDPOINTS[0]

    @property
    def mode(self) -> str:
        """See Wire."""
        return f"noul {VERSION} {'of text' if self.sees is False else f'with {self._dialect}'}"

    async def put(self, client: AsyncOpenAI, window: Window, questions: range) -> Reply:
        """See TypedWire."""
        response = await client.post(self._path, cast_to=httpx2.Response, body=self._body(window, questions))
        read = document(response.content)
        given = read.get("answers")
        if not isinstance(given, dict):
            raise ValueError("the response has no answers")  # noqa: TRY004  servers' replies: see Wire
        return reply_of(read, [answer_of(given.get(name_of(question)), "noul", "noul") for question in questions])

    def _body(self, window: Window, questions: range) -> dict[str, object]:
        asked = {
            name_of(question): {"type": "noul", "instructions": window.questions[question].text}
            for question in questions
        }
        return {"model": self.model, "questions": asked, **_shown(window, self._dialect)}


def _shown(window: Window, dialect: str) -> dict[str, object]:
    """The fields that show the post to the model."""
    words = words_of(window)
    whole = f"{prompts.INSTRUCTIONS}\n{words}"
    if not window.pictures:
        return {"state": whole}
    if dialect == "images":
        return {"state": whole, "images": [data_url(picture) for picture in window.pictures]}
    if dialect == "state":
        parts = [{"type": "image_url", "image_url": {"url": data_url(picture)}} for picture in window.pictures]
        return {"state": [prompts.INSTRUCTIONS, *parts, words]}
    assets = {
        _key(window, number): {"type": "image", "format": "jpeg", "data_base64": base64.b64encode(picture).decode()}
        for number, picture in enumerate(window.pictures)
    }
    return {"state": "\n".join([prompts.INSTRUCTIONS, *assets, words]), "assets": assets}


def _key(window: Window, number: int) -> str:
    """What stands for a picture in the state. It depends on the text, so no text can hold its own."""
    parts = [window.text.encode(), *window.pictures, number.to_bytes(4, "big")]
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts))
    return f"<image:{digest.hexdigest()[:32]}>"
