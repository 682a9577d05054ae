"""The circuit breaker of a model server: whether the server is away, since when, and who waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum

import structlog

from moderation.observability import metrics, phases
from moderation.observability.phases import Phase

FAILURES = 5  # attempts in a row that fail, of all requests, open the breaker
FIRST_PROBE_S, LAST_PROBE_S = 1.0, 30.0  # between two probes of a server that is away; it doubles

log = structlog.get_logger()


class Cause(StrEnum):
    """Why a server gives no answers."""

    UNREACHABLE = "unreachable"  # no connection, or no response in time
    FAILING = "failing"  # it responds with 5xx, or with what is no response
    OVERLOADED = "overloaded"  # it responds with 429
    QUOTA = "quota"  # the account has used up what it may use
    DENIED = "denied"  # the key is refused, or the model is not there any more
    REJECTING = "rejecting"  # it refuses requests that it took before
    BUDGET = "budget"  # our own limit of an hour's cost


class Breaker:
    """Open while the server is away. While it is open, one probe at a time asks whether the server is back."""

    def __init__(
        self, probe: Callable[[], Awaitable[Cause | None]], outage_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """probe: asks the server a question of our own; returns why there is no answer, or None.

        outage_s: how long an outage is waited for.
        """
        self._probe = probe
        self._outage_s = outage_s
        self._clock = clock
        self._failures = 0  # in a row
        self._since: float | None = None  # when it opened; None: it is closed
        self._closed = asyncio.Event()
        self._closed.set()
        self._probing: asyncio.Task[None] | None = None
        self._doubt: asyncio.Task[Cause | None] | None = None
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

    def on_change(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever `paused` has changed."""
        self._changed.append(changed)

    def succeeded(self) -> None:
        """Records that a request was answered. It does not close the breaker: a probe does."""
        self._failures = 0

    def failed(self, cause: Cause) -> None:
        """Records that an attempt has failed in a way that says something about the server."""
        self._failures += 1
        if self._failures >= FAILURES or cause in (Cause.QUOTA, Cause.DENIED):
            self.open(cause)

    async def doubted(self, cause: Cause) -> None:
        """Asks the server a question of our own, after a request has failed. Opens if the server does not answer it.

        Requests that fail at the same time share the question.
        """
        if self.is_open:
            return
        if self._doubt is None or self._doubt.done():
            self._doubt = asyncio.ensure_future(self._probe())
        if (found := await asyncio.shield(self._doubt)) is not None:
            self.open(cause if found is Cause.REJECTING else found)
        else:
            self._failures = 0

    def open(self, cause: Cause) -> None:
        """The server is away."""
        if self.is_open:
            return
        self._since = self._clock()
        self._closed.clear()
        metrics.MODEL_OUTAGE.labels(cause).set(1)
        log.error("model_server_away", cause=cause, outage_s=self._outage_s)
        self._set_paused(True)
        self._probing = asyncio.create_task(self._probe_until_back(cause))

    async def passed(self, patience_s: float) -> float | None:
        """Waits while the breaker is open, at most patience_s. Returns the seconds waited; None if it is still open."""
        if self._since is None:
            return 0.0
        begun = self._clock()
        left = min(patience_s, self._since + self._outage_s - begun)
        if left > 0:
            phases.enter(Phase.OUTAGE)
            try:
                async with asyncio.timeout(left):
                    await self._closed.wait()
            except TimeoutError:
                return None
            finally:
                phases.enter(Phase.MODEL)
        return None if self.is_open else self._clock() - begun

    async def close(self) -> None:
        """Ends the probes."""
        tasks = [task for task in (self._probing, self._doubt) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _probe_until_back(self, cause: Cause) -> None:
        pause = FIRST_PROBE_S
        since = self._clock()
        giving_up = asyncio.get_running_loop().call_later(self._outage_s, self._give_up)
        try:
            while True:
                await asyncio.sleep(pause)
                found = await self._probe()
                if found is None:
                    break
                if found is not cause:
                    metrics.MODEL_OUTAGE.labels(cause).set(0)
                    metrics.MODEL_OUTAGE.labels(found).set(1)
                    log.warning("model_server_still_away", cause=found, seconds=round(self._clock() - since))
                    cause = found
                pause = min(LAST_PROBE_S, 2 * pause)
        finally:
            giving_up.cancel()
            metrics.MODEL_OUTAGE.labels(cause).set(0)
        self._since = None
        self._failures = 0
        self._closed.set()
        log.info("model_server_back", seconds=round(self._clock() - since))
        self._set_paused(False)

    def _give_up(self) -> None:
        log.error("model_outage_given_up", seconds=self._outage_s)
        self._set_paused(False)

    def _set_paused(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            for changed in self._changed:
                changed()
