"""One model server: places for requests, attempts with deadlines, the circuit breaker, the budget, the metrics.

A request ends in one of three ways:

- a reply
- Rejected: the server refuses this request or fails on it, again and again, and answers others
- Unavailable: the server was away for longer than an outage is waited for

Every failure that the server does not explain is checked with a question of our own, before it counts against the
request. If the server does not answer that question either, the breaker opens, and the request waits.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import structlog
from openai import APIError, AsyncOpenAI

from moderation.models.remote import failures
from moderation.models.remote.breaker import Breaker, Patience
from moderation.models.remote.failures import Cause, Failure
from moderation.models.remote.usage import Budget
from moderation.models.remote.wire import Reply
from moderation.observability import metrics
from moderation.observability.logs import frames
from moderation.settings import ModelSettings

ATTEMPTS = 5  # at one request, while the server is not known to be away
TIMEOUTS = 2  # of them that may last as long as an attempt may: a request that hangs holds a place
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 8.0  # between attempts; it doubles, and is drawn between half of it and all
LONG_PAUSE_S = 20.0  # a server that asks for a longer one may be away

Call = Callable[[AsyncOpenAI], Awaitable[Reply]]

log = structlog.get_logger()


class Unavailable(Exception):
    """The server gives no answer to this request."""


class Rejected(Exception):
    """The server refuses this request."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.kind)
        self.failure = failure


class Server:
    """Makes requests. Belongs to one event loop."""

    def __init__(self, client: AsyncOpenAI, settings: ModelSettings, probe: Call) -> None:
        """probe: a request of our own, which the server answers if it works."""
        self._client = client
        self._settings = settings
        self._budget = Budget(settings, lambda: asyncio.get_running_loop().time())
        self._places = asyncio.Semaphore(settings.concurrency)
        self._probe_call = probe
        self._starting = False
        self.breaker = Breaker(self._probe, settings.outage_s)

    def patience(self) -> Patience:
        """For all requests about one window."""
        return Patience(self._settings.outage_s)

    async def ask(self, call: Call, patience: Patience) -> Reply:
        """The reply to a request. Raises Rejected and Unavailable."""
        attempts, pause = 0, FIRST_PAUSE_S
        while True:
            if not await self.breaker.passed(patience):
                raise Unavailable
            async with self._places:
                if self.breaker.is_open:
                    continue
                if self._budget.used_up:
                    self.breaker.open(Failure("budget", Cause.BUDGET))
                    continue
                result = await self._attempt(call)
            if isinstance(result, Reply):
                self.breaker.succeeded()
                return result
            if result.explained:
                raise Rejected(result)
            attempts += 1
            last = attempts >= (TIMEOUTS if result.kind == "timeout" else ATTEMPTS) or not result.transient
            if result.transient:
                self.breaker.failed()
            if last or self.breaker.doubtful or result.retry_after_s > LONG_PAUSE_S:
                if await self.breaker.doubted():  # so the failures say nothing about this request
                    attempts, pause = 0, FIRST_PAUSE_S
                    continue
                if last and result.cause is not Cause.OVERLOADED:
                    raise Rejected(result)
            await self._rest(max(result.retry_after_s, _drawn(pause)), patience, last=last)
            pause = min(LAST_PAUSE_S, 2 * pause)

    async def first(self, call: Call) -> Reply:
        """The reply to the first request. Raises Rejected when the key, the URL or the model is wrong.

        While the server is away this waits, and raises Unavailable after the longest outage.
        """
        patience, malformed = self.patience(), 0
        self._starting = True
        try:
            while True:
                result = await self._attempt(call)
                if isinstance(result, Reply):
                    return result
                if not _is_wrong(result):
                    self.breaker.open(result)
                    if not await self.breaker.passed(patience):
                        raise Unavailable
                    continue
                malformed += result.kind == "malformed"
                if result.kind != "malformed" or malformed == ATTEMPTS:
                    raise Rejected(result)
                await asyncio.sleep(_drawn(FIRST_PAUSE_S))
        finally:
            self._starting = False

    async def _rest(self, seconds: float, patience: Patience, *, last: bool) -> None:
        """Waits before the next attempt. Raises Unavailable when a server is overloaded for too long.

        last: whether the attempts are used up, so the post's patience is.
        """
        if last or seconds > LONG_PAUSE_S:
            if not (left := patience.left()):
                raise Unavailable
            seconds = min(seconds, left)
        await asyncio.sleep(seconds)

    async def _attempt(self, call: Call) -> Reply | Failure:
        begun = time.perf_counter()
        result: Reply | Failure
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                result = await call(self._client)
        except (APIError, TimeoutError, ValueError) as error:  # ValueError: what came is no response of this wire
            result = failures.of(error)
        except Exception as error:  # noqa: BLE001  foreign code reads foreign data; a probe must go on
            log.error("model_reply_unreadable", error=type(error).__name__, frames=frames(error))  # noqa: TRY400
            result = failures.of(error)
        spent = time.perf_counter() - begun
        if isinstance(result, Reply):
            metrics.MODEL_REQUESTS.labels("answered").inc()
            metrics.MODEL_REQUEST_SECONDS.add(spent)
            cost = self._budget.cost(result.usage)
            self._budget.spend(cost)
            for kind in ("input", "cached", "output"):
                metrics.MODEL_TOKENS.labels(kind).inc(getattr(result.usage, kind))
            metrics.MODEL_COST.inc(cost)
        else:
            metrics.MODEL_REQUESTS.labels(result.kind).inc()
            log.debug("model_request_failed", kind=result.kind, status=result.status, seconds=round(spent, 3))
        return result

    async def _probe(self) -> Failure | None:
        """Why the server does not answer a question of our own; None if it does."""
        if self._budget.used_up:
            return Failure("budget", Cause.BUDGET)
        result = await self._attempt(self._probe_call)
        if isinstance(result, Reply):
            return None
        # At the start a server that refuses is there: `first` asks it again, and says what is wrong.
        return None if self._starting and _is_wrong(result) else result


def _is_wrong(failure: Failure) -> bool:
    """Whether the settings may be wrong: what answers refuses us, or is no model server."""
    return failure.cause in (None, Cause.DENIED) or failure.kind == "malformed"


def _drawn(pause: float) -> float:
    return random.uniform(pause / 2, pause)  # noqa: S311  no secret
