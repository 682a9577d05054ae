"""What the two wires of decision models share: a post's words, names of questions, answers and usage in a reply."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence

from moderation.models.remote.probability import score_of
from moderation.models.remote.usage import Usage
from moderation.models.remote.wire import Reply, Window
from moderation.policies import prompts
from moderation.types import Answer, Question, Reason

# Our own question, which shows that a server works and what it calls its model.
GREETING = Window("Good morning!", (), (Question("", "Does the post's text wish a good morning?"),), tokens=64)


def name_of(question: int) -> str:
    """The name of the question with this number. It says nothing: some models read names, and policies have words."""
    return f"q{question}"


def words_of(window: Window) -> str:
    """The post's text as the model reads it, between fences."""
    if not window.text:
        return prompts.NO_TEXT
    mark = prompts.fence(window.text)
    return f"{prompts.FENCED}\n{mark}\n{window.text}\n{mark}"


def data_url(picture: bytes) -> str:
    """A JPEG file as a URL that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"


def document(body: bytes) -> Mapping[str, object]:
    """The JSON object of a response. Raises ValueError, which quotes nothing of it."""
    try:
        read: object = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the response is no JSON") from None
    if not isinstance(read, dict):
        raise ValueError("the response is no JSON object")  # noqa: TRY004  servers' replies: see Wire
    return read


def answer_of(given: object, kind: str, key: str) -> Answer:
    """One answer of a reply. MODEL_FAILED: it is none.

    kind: the type that answers to such a question have. key: where they keep the probability of Yes.
    """
    if not isinstance(given, dict):
        return Reason.MODEL_FAILED
    if given.get("type") == "refusal":
        return Reason.REFUSED
    if given.get("type") != kind:
        return Reason.MODEL_FAILED
    try:
        return score_of(given.get(key))
    except ValueError:
        return Reason.MODEL_FAILED


def reply_of(read: Mapping[str, object], answers: Sequence[Answer]) -> Reply:
    """The reply with these answers. Raises ValueError if not one of them can be used: then the server is at fault."""
    if all(answer is Reason.MODEL_FAILED for answer in answers):
        raise ValueError("the response has no answer that can be read")
    model = read.get("model")
    return Reply(model if isinstance(model, str) else "", tuple(answers), _usage(read.get("usage")))


def _usage(given: object) -> Usage:
    counts = given if isinstance(given, dict) else {}
    details = counts.get("input_tokens_details")
    total = _count(counts.get("input_tokens"))
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(total, cached, _count(counts.get("output_tokens")))


def _count(given: object) -> int:
    """Tokens. Some servers count in floats; what is no count is 0."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 2**53:
        return 0
    return int(given)
