"""The real commands as processes, and what they leave on their topics."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaProducer

Headers = Sequence[tuple[str, bytes]]


class Role:
    """`moderation <command>` as a process. Its log is read while it is written, so tests wait for events."""

    def __init__(self, *command: str, environment: Mapping[str, str], module: str = "moderation") -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *command],
            env=inherited | {"MODERATION_LOG__FORMAT": "json"} | dict(environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    def wait_for(self, event: str, timeout: float = 120) -> dict[str, Any]:
        """Waits until the event is logged. Returns its fields."""

        def event_logged() -> dict[str, Any] | None:
            return next((fields for fields in self.events if fields["event"] == event), None)

        with self._changed:
            self._changed.wait_for(lambda: event_logged() or not self._reader.is_alive(), timeout)
        if fields := event_logged():
            return fields
        raise AssertionError(f"no {event} in {timeout} s; exit code {self.process.poll()}; the log:\n{self.log}")

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 60) -> int:
        """Sends the signal, waits for the end, and returns the exit code."""
        self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float = 60) -> int:
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s; the log:\n{self.log}") from None
        self._reader.join()
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | TracebackType | BaseException | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stderr:
            self.process.stderr.close()


@dataclass(frozen=True)
class Service:
    """The topics of one test, and the settings of the roles that use them."""

    kafka: str
    posts: str
    verdicts: str
    group: str
    model: str
    folder: Path
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def dead_letters(self) -> str:
        return f"{self.posts}.{self.group}.dlq"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MODERATION_KAFKA__BOOTSTRAP": self.kafka,
            "MODERATION_KAFKA__POSTS_TOPIC": self.posts,
            "MODERATION_KAFKA__VERDICTS_TOPIC": self.verdicts,
            "MODERATION_KAFKA__GROUP": self.group,
            "MODERATION_MODEL": self.model,
            "MODERATION_POLICIES": str(Path(__file__).parents[2] / "policies"),
            "MODERATION_MEDIA__ROOTS": str(self.folder),
            "MODERATION_API__LISTEN": "127.0.0.1:0",
            "MODERATION_API__VIEW": str(self.folder / "verdicts.sqlite"),
            "MODERATION_LOG__LEVEL": "debug",
            **self.extra,
        }

    def worker(self) -> Role:
        return Role("worker", environment=self.environment)

    def api(self) -> Role:
        return Role("api", environment=self.environment)


async def produce(kafka: str, topic: str, records: Sequence[tuple[bytes, bytes | None, Headers]]) -> None:
    """Sends records of (key, value, headers)."""
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer:
        sent = [await producer.send(topic, value, key=key, headers=list(headers)) for key, value, headers in records]
        await asyncio.gather(*sent)
