"""What a chaos run is made of, and its result."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tests.chaos.checker import Findings
from tests.chaos.worker import AS_BUILT

if TYPE_CHECKING:
    from tests.chaos.harness import Run

Misfit = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]], str, str]  # key, value, headers, id, reason


@dataclass(frozen=True)
class Scenario:
    """What a run is made of."""

    name: str
    faults: str  # in words
    act: Callable[[Run], Awaitable[None]]
    posts: int = 600
    rate: float = 120.0  # a second
    workers: int = 3
    model: str = "fake?nonce=1&step_ms=20"
    plans: Sequence[Sequence[Mapping[str, Any]]] = ()  # for each worker, for each of its lives
    every_life: Mapping[str, Any] = field(default_factory=dict)  # a part of each plan
    misfits: Sequence[Misfit] = ()  # strewn among the posts, each several times
    settings: Mapping[str, str] = field(default_factory=dict)
    design: str = AS_BUILT
    exits: frozenset[int] = frozenset()  # that the fault explains, beside SIGKILL, 0 and DeliveryError
    patience: float = 90.0  # longest from the end of the faults to the last post
    topic_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by kind of topic
    falls: bool = False  # whether committed offsets may fall for a while: after all brokers have died
    must: Sequence[str] = ()  # faults that must strike, as in Result.struck: a run without them proves nothing
    keeps: bool = False  # posts keep coming until the faults are over; then `act` must not wait for the last post

    def with_design(self, design: str) -> Scenario:
        return replace(self, design=design)


@dataclass
class Result:
    """What a run did, and the findings of the checker."""

    scenario: str
    design: str
    faults: str
    seed: int
    posts: int
    struck: dict[str, int]  # how often each fault and each logged event has happened
    exits: dict[str, int]
    seconds: float
    findings: Findings
    problems: list[str] = field(default_factory=list)  # not drained, an unexpected exit, a fault that never struck

    @property
    def ok(self) -> bool:
        return not self.findings.broken and not self.problems

    def summary(self) -> str:
        return json.dumps(asdict(self), indent=1)
