"""A Server whose model server is a function, on a clock that skips what is only waited for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx2
from openai import APIConnectionError, APIStatusError, AsyncOpenAI
from prometheus_client import REGISTRY

from moderation.models.remote.failures import Cause
from moderation.models.remote.server import Call, Rejected, Server, Unavailable
from moderation.models.remote.wire import Reply
from tests.support.plain_wire import a_client, model_settings
from tests.support.skipping import now

REQUEST = httpx2.Request("POST", "http://server/v1")
REPLY = Reply("model", ())
OUTAGE_S = 900.0


def status(code: int, error_code: str = "", **headers: str) -> APIStatusError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = httpx2.Response(code, headers=named, request=REQUEST)
    return APIStatusError("text", response=response, body={"code": error_code})


def lost() -> APIConnectionError:
    return APIConnectionError(request=REQUEST)


class Story:
    """A server that answers as `says` does: a reply, an error, or how long it takes. Notes when it was asked."""

    def __init__(self, says: Callable[[str], Any] = lambda name: REPLY, **settings: Any) -> None:
        self.says = says
        self.asked: list[tuple[float, str]] = []
        self.at_once = self.most_at_once = 0
        self.probes_at_once = self.most_probes_at_once = 0
        settings = {"outage_s": OUTAGE_S, "request_timeout_s": 60.0} | settings
        url = "http://server/v1"
        self.server = Server(a_client(url), model_settings(url, **settings), self.call("own"))
        self.begun = now()
        self.pauses: list[tuple[float, bool]] = []
        breaker = self.server.breaker
        breaker.on_change(lambda: self.pauses.append((round(now() - self.begun), breaker.paused)))

    def call(self, name: str) -> Call:
        async def call(client: AsyncOpenAI) -> Reply:
            self.asked.append((now() - self.begun, name))
            probe = name == "own"
            self.at_once += not probe
            self.probes_at_once += probe
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.most_probes_at_once = max(self.most_probes_at_once, self.probes_at_once)
            try:
                said = self.says(name)
                if isinstance(said, float):
                    await asyncio.sleep(said)
                    return REPLY
                if isinstance(said, Exception):
                    raise said
                assert isinstance(said, Reply)
                return said
            finally:
                self.at_once -= not probe
                self.probes_at_once -= probe

        return call

    async def ask(self, name: str = "post") -> str:
        """How a request ends."""
        try:
            await self.server.ask(self.call(name), self.server.patience())
        except Rejected as rejected:
            return f"rejected: {rejected.failure.kind}"
        except Unavailable:
            return "unavailable"
        return "answered"

    async def all(self, count: int) -> Counter[str]:
        return Counter(await asyncio.gather(*(self.ask(f"post-{number}") for number in range(count))))

    def times(self, name: str = "post") -> list[float]:
        return [at for at, asked in self.asked if asked == name]

    @property
    def seconds(self) -> float:
        return now() - self.begun


def in_turn(*said: Any) -> Callable[[str], Any]:
    """What is said to each request that is not our own question; the last one to all further requests."""
    left = list(said)

    def says(name: str) -> Any:
        return REPLY if name == "own" else left.pop(0) if len(left) > 1 else left[0]

    return says


def away(begin: float, end: float, error: Callable[[], Exception] = lost, *, hangs: bool = False) -> Callable[..., Any]:
    """A server that is away between two times of the loop since the story's begin."""
    start = now()

    def says(name: str) -> Any:
        if not begin <= now() - start < end:
            return REPLY
        return 1e6 if hangs else error()

    return says


def outage(cause: Cause) -> float | None:
    return REGISTRY.get_sample_value("moderation_model_outage", {"cause": cause})
