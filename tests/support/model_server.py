"""A model server that a test scripts: chat completions over raw sockets, with any fault at any request.

    with model_server() as server:
        server.plays(error(429, retry_after="2"), cut)    the next two requests
        server.otherwise = error(503)                     all others; default: `completion()`
        server.choose = lambda asked: silence if "slow" in asked.text else None    asked first, for each request
        server.down(); server.up()                        connections are refused; the same port again

A request that nothing else was said about is answered Yes with the probability that a word such as `says:0.97` in the
request's messages names, and with SAYS otherwise. The server runs in threads: a test, its event loop and other
processes may use it.
"""

from __future__ import annotations

import json
import math
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

SAYS = 0.03  # P(Yes) where no word of the request says another
MASS = 0.98  # of Yes and No together
MODEL = "scripted-1"  # the name that the server reports
USAGE = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}
SECRET = "what a server says"  # noqa: S105  in the text of errors: no log may hold it
DRIP_S = 0.05


@dataclass(frozen=True, slots=True)
class Asked:
    """A request."""

    method: str
    path: str
    headers: dict[str, str]  # by name in small letters
    body: bytes
    at: float  # when it had arrived, by time.monotonic

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """All texts of the messages."""
        contents = [message["content"] for message in self.json.get("messages", ())] if self.body else []
        parts = [part for content in contents for part in ([content] if isinstance(content, str) else content)]
        return "\n".join(part if isinstance(part, str) else part.get("text", "") for part in parts)


# Answers a request; returns whether the connection stays open.
Play = Callable[[socket.socket, Asked], bool]


class ModelServer:
    """See the module's text. `requests`: all that have arrived, in order."""

    def __init__(self) -> None:
        self.otherwise: Play = completion()
        self.choose: Callable[[Asked], Play | None] = lambda asked: None
        self.requests: list[Asked] = []
        self.at_once = 0  # requests in hand now; a client may send the next one before its last is counted out
        self._next: deque[Play] = deque()
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listening: socket.socket | None = None
        self._accepting: threading.Thread | None = None
        self.port = 0
        self.up()

    @property
    def url(self) -> str:
        """The base URL, as in MODERATION_MODEL__URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def plays(self, *plays: Play) -> None:
        """Answers the next requests so, one each."""
        self._next.extend(plays)

    def up(self) -> None:
        """Listens, on the same port as before."""
        if self._listening is None:
            self._listening = socket.create_server(("127.0.0.1", self.port), backlog=256)
            self.port = self._listening.getsockname()[1]
            self._accepting = threading.Thread(target=self._accept, args=(self._listening,), daemon=True)
            self._accepting.start()

    def down(self) -> None:
        """Refuses connections, and resets those that are open."""
        if self._listening is None or self._accepting is None:
            return
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._accepting.join()
        self._listening = None
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):  # the client may close the connection, and does
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stays = True
                while stays and (asked := _read(connection)) is not None:
                    stays = self._play(asked)(connection, asked)
                    with self._lock:
                        self.at_once -= 1
        finally:
            with self._lock:
                self._connections.discard(connection)

    def _play(self, asked: Asked) -> Play:
        with self._lock:
            self.requests.append(asked)
            self.at_once += 1
            if (chosen := self.choose(asked)) is not None:
                return chosen
            return self._next.popleft() if self._next else self.otherwise


@contextmanager
def model_server() -> Iterator[ModelServer]:
    """A server that is up, until the end of the block."""
    server = ModelServer()
    try:
        yield server
    finally:
        server.down()


def _read(connection: socket.socket) -> Asked | None:
    """The next request of a connection; None: the connection was closed."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (more := connection.recv(65_536)):
            return None
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.partition(":") for line in lines]
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    method, path, _ = first.split(" ")
    while len(body) < int(headers.get("content-length", 0)):
        if not (more := connection.recv(65_536)):
            return None
        body += more
    return Asked(method, path, headers, body, time.monotonic())


def response(status: int, body: bytes, **headers: str) -> bytes:
    """A response. Header names: `retry_after` stands for Retry-After."""
    headers = {"content_type": "application/json", "content_length": str(len(body))} | headers
    lines = [f"{name.replace('_', '-').title()}: {value}" for name, value in headers.items()]
    head = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def sends(status: int, body: bytes | str | Any, **headers: str) -> Play:
    """A response; a body that is neither bytes nor text becomes JSON."""
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()

    def play(connection: socket.socket, asked: Asked) -> bool:
        connection.sendall(response(status, data, **headers))
        return True

    return play


def error(
    status: int, message: str = SECRET, *, code: str | int | None = None, type: str | None = None, **headers: str
) -> Play:
    """An error in OpenAI's form."""
    return sends(status, {"error": {"message": message, "type": type, "param": None, "code": code}}, **headers)


def completion(
    yes: float | None = None,
    *,
    model: str | None = MODEL,
    mass: float = MASS,
    logprobs: bool = True,
    usage: dict[str, Any] | None = USAGE,
    **choice: Any,
) -> Play:
    """A chat completion that answers Yes with this probability. `choice`: fields of the choice or of its message.

    Without `logprobs` the answer is the likelier word alone. A request for JSON gets the words in its schema's form.
    """

    def play(connection: socket.socket, asked: Asked) -> bool:
        body = completed(asked, probability(asked) if yes is None else yes, mass, logprobs=logprobs)
        body |= {"model": model, "usage": usage}
        for name, value in choice.items():
            target = body["choices"][0]
            (target["message"] if name in ("content", "refusal") else target)[name] = value
        connection.sendall(response(200, json.dumps({k: v for k, v in body.items() if v is not None}).encode()))
        return True

    return play


def probability(asked: Asked) -> float:
    """P(Yes) as a word of the request says. The one picture that it sees is the plate of models/remote/sight.py."""
    if "picture purple?" in asked.text:
        return 1 - SAYS
    said = re.search(r"\bsays:([01](?:\.\d+)?)", asked.text)
    return float(said[1]) if said else SAYS


def completed(asked: Asked, yes: float, mass: float = MASS, *, logprobs: bool = True) -> dict[str, Any]:
    """The body of a chat completion."""
    request = asked.json
    word = "Yes" if yes >= 0.5 else "No"
    schema = (request.get("response_format") or {}).get("json_schema", {}).get("schema")
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": json.dumps(_filled(schema, yes >= 0.5)) if schema else word},
        "logprobs": None,
        "finish_reason": "stop",
    }
    if logprobs and request.get("logprobs"):
        words = {"Yes": yes * mass, "No": (1 - yes) * mass, "Maybe": 1 - mass}
        entries = [
            {"token": token, "logprob": math.log(share) if share > 0 else -9999.0, "bytes": list(token.encode())}
            for token, share in sorted(words.items(), key=lambda pair: -pair[1])
        ]
        listed = entries[: request.get("top_logprobs") or 0]
        choice["logprobs"] = {"content": [entries[0] | {"top_logprobs": listed}], "refusal": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [choice],
        "usage": USAGE,
    }


def _filled(schema: dict[str, Any], yes: bool) -> Any:
    """A value of this schema that says Yes or No wherever it may."""
    if choices := schema.get("enum"):
        return next(value for value in choices if str(value).lower() in (("yes", "true") if yes else ("no", "false")))
    if schema.get("type") == "object":
        return {name: _filled(part, yes) for name, part in schema["properties"].items()}
    return yes if schema.get("type") == "boolean" else ("Yes" if yes else "No")


def cut(connection: socket.socket, asked: Asked) -> bool:
    """Closes the connection without a word."""
    return False


def reset(connection: socket.socket, asked: Asked) -> bool:
    """Resets the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def silence(connection: socket.socket, asked: Asked) -> bool:
    """Says nothing until the client closes the connection."""
    while connection.recv(65_536):
        pass
    return False


def raw(*parts: bytes) -> Play:
    """Sends these bytes and closes the connection."""

    def play(connection: socket.socket, asked: Asked) -> bool:
        for part in parts:
            connection.sendall(part)
        return False

    return play


def dripping(head: bytes, endless: bytes, pause_s: float = DRIP_S) -> Play:
    """Sends `head` at once, then `endless` again and again, until the client closes the connection."""

    def play(connection: socket.socket, asked: Asked) -> bool:
        connection.sendall(head)
        while True:
            connection.sendall(endless)
            time.sleep(pause_s)

    return play


def after(gate: threading.Event | float, play: Play) -> Play:
    """Answers once the event is set; or after so many seconds."""

    def held(connection: socket.socket, asked: Asked) -> bool:
        if isinstance(gate, threading.Event):
            gate.wait(60)
        else:
            time.sleep(gate)
        return play(connection, asked)

    return held
