"""The circuit breaker of a model server: whether the server is away, since when, and who waits for it.

Only a question of our own shows that a server is away. A request that fails alone says nothing about the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

import structlog

from moderation.models.remote.failures import Cause, Failure
from moderation.observability import metrics, phases
from moderation.observability.phases import Phase

FAILURES = 5  # attempts in a row that fail, of all requests, put the server in doubt
FIRST_PROBE_S, LAST_PROBE_S = 1.0, 30.0  # between two probes of a server that is away; it doubles
LONGEST_PROBE_S = 300.0  # between two probes, where the server asks for a longer pause

log = structlog.get_logger()


class Patience:
    """How long a post waits for a server in all. It begins with the first wait."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: float | None = None

    def left(self) -> float:
        """Seconds that are left."""
        now = asyncio.get_running_loop().time()
        if self._until is None:
            self._until = now + self._seconds
        return max(0.0, self._until - now)


class Breaker:
    """Open while the server is away. While it is open, one probe at a time asks whether the server is back.

    Belongs to one event loop.
    """

    def __init__(self, probe: Callable[[], Coroutine[Any, Any, Failure | None]], outage_s: float) -> None:
        """probe: asks the server a question of our own; returns why there is no answer, or None. Raises nothing.

        outage_s: how long an outage is waited for.
        """
        self._probe = probe
        self._outage_s = outage_s
        self.cause: Cause | None = None  # why it is open, or was open last
        self._failures = 0  # in a row
        self._since: float | None = None  # when it opened; None: it is closed
        self._closed = asyncio.Event()
        self._closed.set()
        self._probing: asyncio.Task[None] | None = None
        self._doubt: asyncio.Task[Failure | None] | None = None
        self._paused = False
        self._changed: list[Callable[[], None]] = []

    @property
    def is_open(self) -> bool:
        """Whether the server is away."""
        return self._since is not None

    @property
    def paused(self) -> bool:
        """Whether the server is away, and the outage is still waited for."""
        return self._paused

    @property
    def doubtful(self) -> bool:
        """Whether so many attempts have failed in a row that the server may be away."""
        return self._failures >= FAILURES

    def on_change(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever `paused` has changed."""
        self._changed.append(changed)

    def succeeded(self) -> None:
        """Records that a request was answered. It does not close the breaker: a probe does."""
        self._failures = 0

    def failed(self) -> None:
        """Records that an attempt has failed in a way that may be the server's."""
        self._failures += 1

    async def doubted(self) -> bool:
        """Asks the server a question of our own, after a request has failed. Opens if the server does not answer it.

        Requests that fail at the same time share the question. Returns whether the server is away.
        """
        if self.is_open:
            return True
        if self._doubt is None or self._doubt.done():
            self._doubt = asyncio.create_task(self._probe(), context=Context())
        if (found := await asyncio.shield(self._doubt)) is not None:
            self.open(found)
        else:
            self._failures = 0
        return self.is_open

    def open(self, failure: Failure) -> None:
        """The server is away, as this failure shows."""
        if self.is_open:
            return
        cause = self.cause = failure.cause or Cause.REJECTING
        self._since = since = asyncio.get_running_loop().time()
        self._closed.clear()
        metrics.MODEL_OUTAGE.labels(cause).set(1)
        log.error("model_server_away", cause=cause, status=failure.status, outage_s=self._outage_s)
        self._set_paused(True)
        probing = self._probe_until_back(cause, failure.retry_after_s, since)
        self._probing = asyncio.create_task(probing, context=Context())  # what it logs is about no post

    async def passed(self, patience: Patience) -> bool:
        """Waits while the breaker is open, as long as the patience and the outage's limit allow.

        Returns whether it is closed.
        """
        while self._since is not None:
            now = asyncio.get_running_loop().time()
            left = min(patience.left(), self._since + self._outage_s - now)
            if left <= 0:
                return False
            phases.enter(Phase.OUTAGE)
            try:
                async with asyncio.timeout(left):
                    await self._closed.wait()
            except TimeoutError:
                return not self.is_open
            finally:
                phases.enter(Phase.MODEL)
        return True

    async def close(self) -> None:
        """Ends the probes."""
        tasks = [task for task in (self._probing, self._doubt) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _probe_until_back(self, cause: Cause, retry_after_s: float, since: float) -> None:
        pause = FIRST_PROBE_S
        loop = asyncio.get_running_loop()
        giving_up = loop.call_at(since + self._outage_s, self._give_up)
        try:
            while True:
                await asyncio.sleep(max(pause, min(retry_after_s, LONGEST_PROBE_S)))
                found = await self._probe()
                if found is None:
                    break
                retry_after_s = found.retry_after_s
                if (now := found.cause or Cause.REJECTING) is not cause:
                    metrics.MODEL_OUTAGE.labels(cause).set(0)
                    metrics.MODEL_OUTAGE.labels(now).set(1)
                    seconds = round(loop.time() - since)
                    log.warning("model_server_still_away", cause=now, status=found.status, seconds=seconds)
                    cause = self.cause = now
                pause = min(LAST_PROBE_S, 2 * pause)
        finally:
            giving_up.cancel()
            metrics.MODEL_GIVEN_UP.set(0)
            metrics.MODEL_OUTAGE.labels(cause).set(0)
        self._since = None
        self._failures = 0
        self._closed.set()
        log.info("model_server_back", seconds=round(loop.time() - since))
        self._set_paused(False)

    def _give_up(self) -> None:
        log.error("model_outage_given_up", seconds=self._outage_s)
        metrics.MODEL_GIVEN_UP.set(1)
        self._set_paused(False)

    def _set_paused(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            for changed in self._changed:
                changed()
