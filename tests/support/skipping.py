"""An event loop that does not wait: when nothing is left to do but to wait, its clock skips to the next timer.

Work takes no time on that clock, so a story takes the same time on a busy machine.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    skipped = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        events = super().select(0)
        if not events:
            self.skipped += timeout
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Selector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.skipped


def run(story: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on such a loop. Hours take milliseconds. Not for threads and sockets."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(story)


def now() -> float:
    """The loop's time, in seconds."""
    return asyncio.get_running_loop().time()
