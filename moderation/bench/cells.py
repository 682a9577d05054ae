"""The results of a run of `bench engine`."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long the ways took for one kind of post at one number of policies."""

    kind: str
    policies: int
    tokens: int  # of a post, slots of its pictures among them
    seconds: dict[str, list[float]]  # way -> seconds of a post, round by round
    apart: dict[str, float]  # way -> largest difference from what all ways must give, log-odds

    def ratio(self, way: str, to: str) -> tuple[float, float, float]:
        """How many times faster a way is than another: (median, smallest, largest) over the rounds."""
        ratios = [other / own for own, other in zip(self.seconds[way], self.seconds[to], strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)

    def rate(self, way: str) -> float:
        """Posts a second."""
        return 1 / statistics.median(self.seconds[way])


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(Times):
    """The same on a network with random weights. apart: from `tree1`."""

    padding: float  # tokens that the passes of `tree` ran over / tokens of the posts
    posts: int  # in a step of `tree`
    gflop: float  # of a post, as the engine computes it
    plain_gflop: float  # of a post, the least that separate prompts take


@dataclass(slots=True)
class Run:
    """All results of a run."""

    command: str
    machine: dict[str, str]
    size: dict[str, object]
    matmul_gflops: dict[str, float]
    encode_ms: dict[str, float]
    peak_mb: (
        float  # of the process (on CUDA: of the device) once the engine has run the largest step, before the others
    )
    cells: list[Cell] = field(default_factory=list)
