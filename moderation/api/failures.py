"""Errors that no caller has caused: defects, and errors that end the process."""

from __future__ import annotations

import asyncio

import structlog

from moderation.api.errors import RefusalKind, RefusedError, refusal_of, unavailable
from moderation.errors import ModerationError

log = structlog.get_logger()


class Failures:
    """Holds the first error that the process cannot go on after. Kafka holds all state: a fresh start repairs it."""

    def __init__(self) -> None:
        """Needs a running event loop."""
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def report(self, error: ModerationError) -> None:
        """Ends the process: `wait` raises the error."""
        if not self._first.done():
            self._first.set_exception(error)

    async def wait(self) -> None:
        """Waits for the first error, and raises it."""
        await self._first

    def refusal(self, error: Exception, method: str) -> RefusedError:
        """Returns what a caller of this method gets for any error. Reports an error that breaks the process."""
        if (refused := refusal_of(error)) is not None:
            return refused
        if isinstance(error, ModerationError):
            self.report(error)
            return unavailable("STOPPING", "the service is restarting; try again later")
        log.error("call_failed", method=method, exc_info=error)
        return RefusedError(RefusalKind.INTERNAL, "INTERNAL", "internal error")
