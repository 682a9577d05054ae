"""One model server: places for requests, attempts with deadlines, the circuit breaker, the budget, the metrics.

A request ends in one of three ways:

- a reply
- Rejected: the server refused this request, and answers others
- Unavailable: the server was away for longer than an outage is waited for, or fails on this request alone
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import structlog
from openai import APIError, AsyncOpenAI

from moderation.models.remote import failures
from moderation.models.remote.breaker import Breaker, Cause
from moderation.models.remote.failures import Failure
from moderation.models.remote.usage import Budget
from moderation.models.remote.wire import Reply
from moderation.observability import metrics
from moderation.settings import ModelSettings

ATTEMPTS = 4  # at one request, while the server is not known to be away
FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 8.0  # between attempts; it doubles, and is drawn between half of it and all
LONGEST_RETRY_AFTER_S = 60.0  # a server that asks for a longer pause is away
DOUBTFUL = 5  # requests that are rejected in a row: then a question of our own shows whose fault it is

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
        self._budget = Budget(settings)
        self._places = asyncio.Semaphore(settings.concurrency)
        self._rejected = 0  # in a row
        self._probe_call = probe
        self.breaker = Breaker(self._probe, settings.outage_s)

    async def ask(self, call: Call) -> Reply:
        """The reply to a request. Raises Rejected and Unavailable."""
        patience = self._settings.outage_s
        while True:
            waited = await self.breaker.passed(patience)
            if waited is None:
                raise Unavailable
            patience -= waited
            if self._budget.used_up:
                self.breaker.open(Cause.BUDGET)
                continue
            async with self._places:
                if self.breaker.is_open:
                    continue
                failure = await self._attempts(call)
            if isinstance(failure, Reply):
                return failure
            if failure.cause is None:
                await self._refused(failure)
            else:
                await self.breaker.doubted(failure.cause)
            if not self.breaker.is_open:  # the server answers others
                if failure.cause is None:
                    raise Rejected(failure)
                raise Unavailable

    async def first(self, call: Call) -> Reply:
        """The reply to the first request. As `ask`, but Rejected when the key, the URL or the model is wrong."""
        result = await self._attempt(call)
        if isinstance(result, Reply):
            return result
        if result.cause in (None, Cause.DENIED):
            raise Rejected(result)
        return await self.ask(call)

    async def _attempts(self, call: Call) -> Reply | Failure:
        """The reply; or the last failure, when there are no further attempts."""
        pause = FIRST_PAUSE_S
        for attempt in range(1, ATTEMPTS + 1):
            result = await self._attempt(call)
            if isinstance(result, Reply):
                self.breaker.succeeded()
                self._rejected = 0
                return result
            if result.cause is None:
                return result
            self.breaker.failed(result.cause)
            retry_after = result.retry_after_s or 0.0
            if self.breaker.is_open or attempt == ATTEMPTS or retry_after > LONGEST_RETRY_AFTER_S:
                return result
            await asyncio.sleep(max(retry_after, random.uniform(pause / 2, pause)))  # noqa: S311  no secret
            pause = min(LAST_PAUSE_S, 2 * pause)
        raise AssertionError("unreachable")

    async def _attempt(self, call: Call) -> Reply | Failure:
        begun = time.perf_counter()
        result: Reply | Failure
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                result = await call(self._client)
        except (APIError, TimeoutError, ValueError) as error:  # ValueError: what came is no response of this wire
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

    async def _probe(self) -> Cause | None:
        """Why the server does not answer a question of our own; None if it does."""
        if self._budget.used_up:
            return Cause.BUDGET
        result = await self._attempt(self._probe_call)
        if isinstance(result, Reply):
            return None
        return result.cause or Cause.REJECTING

    async def _refused(self, failure: Failure) -> None:
        self._rejected += 1
        if self._rejected >= DOUBTFUL and not failure.filtered:
            self._rejected = 0
            await self.breaker.doubted(Cause.REJECTING)
