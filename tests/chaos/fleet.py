"""The worker processes of a chaos run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Worker:
    """A worker process, which is started again when it ends."""

    def __init__(self, number: int, environment: Mapping[str, str], plans: Sequence[Mapping[str, Any]], log: Path):
        self.number = number
        self._environment = dict(environment)
        self._plans = list(plans)
        self.log = log
        self.process: asyncio.subprocess.Process | None = None
        self.exits: list[int] = []
        self.wanted = True
        self.again_s = 0.0  # from an end to the next start
        self.rest: Mapping[str, Any] = {}

    async def run(self) -> None:
        """Keeps a process running, as an orchestrator would, while one is wanted."""
        while self.wanted:
            plan = {**self.rest, **(self._plans.pop(0) if self._plans else {})}
            with self.log.open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "tests.chaos.worker",
                    json.dumps(plan),
                    env=self._environment,
                    stderr=log,
                    stdout=asyncio.subprocess.DEVNULL,
                )
            try:
                self.exits.append(await self.process.wait())
            finally:
                if self.process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        self.process.kill()
                    await self.process.wait()
            await asyncio.sleep(self.again_s)

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    @property
    def events(self) -> list[dict[str, Any]]:
        lines = self.log.read_text("utf-8", "replace").splitlines() if self.log.exists() else []
        events = []
        for line in lines:
            with contextlib.suppress(ValueError):
                if line.startswith("{"):
                    events.append(json.loads(line))
        return events

    def count(self, event: str) -> int:
        return sum(logged["event"] == event for logged in self.events)
