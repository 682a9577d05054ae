"""The only thread that runs the model. A deadline holds for each step.

There is one device, so a late step is not replaced as in deadline_pool.py: it ends the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from moderation.errors import DeviceError

T = TypeVar("T")


class ModelThread:
    """Awaits work on the model's thread. Starts the thread with the first work."""

    def __init__(self, timeout_s: float) -> None:
        """timeout_s: longest time for one piece of work."""
        self._timeout_s = timeout_s
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Returns what `work` returns. Raises DeviceError if the work takes longer than the timeout."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)
        except TimeoutError:
            raise DeviceError(f"a step has not ended in {self._timeout_s:g} s: the device hangs") from None

    def close(self) -> None:
        """Does not wait for work that has begun: a sick device may never end it."""
        self._executor.shutdown(wait=False, cancel_futures=True)
