"""Which topics exist now, and which of the same name existed before: a topic may be deleted and made again.

A position belongs to one life of a topic, which the topic's id names. The view asks brokers for the ids every second,
and for a caller who brings a position without an id.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

from aiokafka.errors import KafkaTimeoutError
from cachetools import TTLCache

RETRY_S = 1.0  # after a request that brokers have not answered
WAIT_S = 1.0  # that a caller waits for a response
NEWER_S = 10.0  # in which an id that brokers do not know may be that of a topic that they do not know yet
KEPT = 10_000  # ids that nobody knows, of callers


class Lives:
    """The ids that topics have now, and those that they had. `clock` is a monotonic one."""

    def __init__(
        self, ask: Callable[[], Awaitable[Mapping[str, str]]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`ask`: returns the ids by topic, as brokers give them after the call."""
        self._ask = ask
        self._clock = clock
        self._now: dict[str, str] = {}
        self._past: defaultdict[str, set[str]] = defaultdict(set)
        self._first: TTLCache[tuple[str, str], float] = TTLCache(KEPT, 3600.0, clock)
        self._asked = clock()  # when the last request began that was answered
        self._answers = True  # brokers have answered the last request
        self._listeners: list[Callable[[str, str], None]] = []

    def id(self, topic: str) -> str:
        """The id that the topic has now; empty: not known, as on brokers that know no ids."""
        return self._now.get(topic, "")

    def is_past(self, topic: str, id: str) -> bool:
        """Whether the topic with this id no longer exists. False, for a while, for an id that nobody knows.

        Not all brokers know at once of a topic that was just made.
        """
        now = self.id(topic)
        if not now or id == now:
            return False
        if id in self._past[topic]:
            return True
        first = self._first.setdefault((topic, id), self._clock())
        return self._asked - first > NEWER_S

    def on_change(self, listener: Callable[[str, str], None]) -> None:
        """Calls `listener` with the name of a topic that was made again, and with the id that it had before."""
        self._listeners.append(listener)

    def learn(self, ids: Mapping[str, str]) -> None:
        """Takes ids, by topic, that a broker has given. Those of the past come from brokers that are behind."""
        for topic, id in ids.items():
            before = self.id(topic)
            if id == before or id in self._past[topic]:
                continue
            self._now[topic] = id
            if before:
                self._past[topic].add(before)
                for listener in self._listeners:
                    listener(topic, before)

    async def answered(self, seconds: float) -> None:
        """Asks until brokers have answered. Raises KafkaTimeoutError after so many seconds.

        A view whose topic's id comes later could not tell whether its store is of that topic.
        """
        end = self._clock() + seconds
        while error := await self.ask():
            if self._clock() >= end:
                raise KafkaTimeoutError("no broker has given the ids of topics") from error
            await asyncio.sleep(RETRY_S)

    async def refresh(self) -> None:
        """Asks the brokers. Returns at once while they do not answer, and after WAIT_S at the latest."""
        if self._answers:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await self.ask()

    async def ask(self) -> BaseException | None:
        """Asks the brokers, also while they do not answer. Returns why they have not answered; None: they have."""
        begun = self._clock()
        try:
            ids = await self._ask()
        except Exception as error:  # noqa: BLE001  aiokafka does not say what it raises
            self._answers = False
            return error
        self._answers, self._asked = True, begun
        self.learn(ids)
        return None
