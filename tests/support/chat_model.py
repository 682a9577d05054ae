"""A double of chat-completion servers on a real socket. OpenAI's own types check each request and each response.

It answers a question by its last word: Yes if the post has that word, or a picture of that colour.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from openai.types.chat import ChatCompletion
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from moderation.policies import prompts
from tests.support.decision_models import colour
from tests.support.json_server import JsonServer, Request

REQUEST = TypeAdapter(CompletionCreateParamsNonStreaming)
# Probabilities of the first token, of a model that says Yes. For No the words change places.
TOKENS = {"Yes": 0.6, " Yes": 0.1, "YES": 0.05, "No": 0.1, "no": 0.05, "Maybe": 0.05}
RARE = {" yes": 0.001, " no": 0.002}  # not among the likeliest
IDS = {"Yes": 11, " Yes": 12, "YES": 13, "No": 14, "no": 15, " yes": 16, " no": 17}
SCORE = 0.75 / 0.9  # P(Yes) of TOKENS
EXACT = 0.751 / 0.903  # with RARE
USAGE = {
    "prompt_tokens": 90,
    "completion_tokens": 1,
    "total_tokens": 91,
    "prompt_tokens_details": {"cached_tokens": 64},
}


class ChatModel:
    """What a server can do is set by fields. Requests that break OpenAI's types, and others' faults, go to `faults`."""

    def __init__(
        self,
        *,
        refuses: Sequence[str] = (),
        ignores: Sequence[str] = (),
        most: int = 20,
        system: bool = True,
        blind: bool = False,
        thinks: bool = False,
        ids: bool = False,
        fails_on_pictures: bool = False,
    ) -> None:
        """refuses: fields that it answers with 400. ignores: fields that it takes and does not heed. most: logprobs.

        system: whether its template has a system message. thinks: before it answers, unless it is told not to. ids: it
        is as vLLM, and lists the logprobs of given ids. fails_on_pictures: as llama.cpp's server with a model of text.
        """
        self.refuses, self.ignores = refuses, ignores
        self.most, self.system, self.blind, self.thinks, self.ids = most, system, blind, thinks, ids
        self.fails_on_pictures = fails_on_pictures
        self.busy: list[str] = []  # the next request with such a field, or to such a path, finds the server busy
        self.choice: dict[str, Any] = {}  # overrides fields of the choice
        self.body: Any = None  # overrides the response
        self.faults: list[str] = []
        self.server = JsonServer(self._checked)

    @property
    def asked(self) -> list[Any]:
        """The bodies of the requests for completions."""
        return [request.body for request in self.server.requests if request.path == "/v1/chat/completions"]

    def _checked(self, request: Request) -> tuple[int, Any]:
        try:
            return self._answer(request)
        except Exception as error:
            self.faults.append(repr(error))
            raise

    def _answer(self, request: Request) -> tuple[int, Any]:
        for name in self.busy:
            if name in request.body or name == request.path or name in str(request.body.get("messages")):
                self.busy.remove(name)
                return 503, {"error": {"message": "busy"}}
        if request.path == "/tokenize" and self.ids:
            form = request.body["prompt"]
            return 200, {"count": 1, "max_model_len": 4096, "tokens": [IDS[form]] if form in IDS else [1, 2]}
        if request.path != "/v1/chat/completions":
            return 404, {"detail": "Not Found"}
        body = request.body
        REQUEST.validate_python(body)
        roles = [message["role"] for message in body["messages"]]
        wrong = [name for name in self.refuses if name in body]
        if body.get("top_logprobs", 0) > self.most:
            wrong.append("top_logprobs")
        if "system" in roles and not self.system:
            wrong.append("system")
        if self.fails_on_pictures and "image_url" in str(body["messages"]):
            return 500, {"error": {"message": "image input is not supported - hint: mmproj", "code": 500}}
        if wrong:
            return 400, {"error": {"message": f"unsupported: {wrong}", "type": "invalid_request_error", "code": None}}
        return 200, self.body if self.body is not None else self._completed(body)

    def _completed(self, body: Any) -> Any:
        heeded = {name: value for name, value in body.items() if name not in self.ignores}
        yes = self._says_yes(body["messages"][-1]["content"])
        thinking = self.thinks and heeded.get("chat_template_kwargs") != {"enable_thinking": False}
        tokens = _tokens(yes) if not thinking else {"<think>": 0.999, "Yes": 0.0005, "No": 0.0004}
        word = next(iter(tokens))
        if "response_format" in heeded:
            word = json.dumps({"answer": word})
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None, "message": _message(word)}
        if heeded.get("logprobs"):
            choice["logprobs"] = {"content": [self._position(tokens, yes, heeded)], "refusal": None}
        completion = {"id": "c", "object": "chat.completion", "created": 1, "model": "double-1", "usage": USAGE}
        completion["choices"] = [choice]
        ChatCompletion.model_validate(completion, strict=True)
        return completion | {"choices": [choice | self.choice]}

    def _position(self, tokens: Mapping[str, float], yes: bool, heeded: Any) -> Any:
        listed = dict(list(tokens.items())[: heeded.get("top_logprobs", 0)])
        if self.ids and (ids := heeded.get("logprob_token_ids")):
            every = {**tokens, **_tokens(yes, RARE)}
            listed = {word: every[word] for word in every if IDS.get(word) in ids}
        entries = [
            {"token": word, "bytes": list(word.encode()), "logprob": math.log(share)} for word, share in listed.items()
        ]
        return (
            {**entries[0], "top_logprobs": entries} if entries else {"token": "Yes", "logprob": 0.0, "top_logprobs": []}
        )

    def _says_yes(self, content: Any) -> bool:
        parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        pictures = [
            base64.b64decode(part["image_url"]["url"].removeprefix("data:image/jpeg;base64,"))
            for part in parts
            if part["type"] == "image_url"
        ]
        post, question = parts[-1]["text"].removesuffix(f"\n{prompts.ASK}").rsplit("\n", 1)
        seen = [] if self.blind else [colour(picture) for picture in pictures]
        return re.findall(r"\w+", question.lower())[-1] in {*re.findall(r"\w+", post.lower()), *seen}


def _tokens(yes: bool, tokens: Mapping[str, float] = TOKENS) -> dict[str, float]:
    if yes:
        return dict(tokens)
    other = {"Yes": "No", " Yes": " No", "YES": "NO", "No": "Yes", "no": "yes", " yes": " no", " no": " yes"}
    return {other.get(word, word): share for word, share in tokens.items()}


def _message(content: str) -> Any:
    return {"role": "assistant", "content": content, "refusal": None}
