"""The ends that a partition had over time: when its records arrived, by no clock but our own.

The ends of a partition only grow. A record that was behind an end arrived after that poll was sent, and a record that
was in front of an end arrived before that poll returned.
"""

from __future__ import annotations

import math
from bisect import bisect_right

MAX_ENDS = 256  # kept of a partition; beyond, every second one is dropped, so older ones lie farther apart


class PolledEnds:
    """The ends that one partition had, with the local times at which that was certain."""

    __slots__ = ("_ends", "_first", "_last")

    def __init__(self) -> None:
        self._ends: list[int] = []
        self._first: list[float] = []  # when the first poll with this end returned
        self._last: list[float] = []  # when the last poll with this end was sent

    def add(self, end: int, sent: float, received: float) -> None:
        """Adds a poll. An end that is lower than the last one is of another log: what was known of the old one goes."""
        if self._ends and end < self._ends[-1]:
            self._ends, self._first, self._last = [], [], []
        if self._ends and end == self._ends[-1]:
            self._last[-1] = sent
            return
        if len(self._ends) >= MAX_ENDS:
            for kept in (self._ends, self._first, self._last):
                del kept[:-1:2]
        self._ends.append(end)
        self._first.append(received)
        self._last.append(sent)

    def window(self, offset: int) -> tuple[float, float]:
        """Returns after and before which time the record at this offset arrived; -inf and inf where not known."""
        at = bisect_right(self._ends, offset)  # of the first end behind the record
        return self._last[at - 1] if at else -math.inf, self._first[at] if at < len(self._ends) else math.inf
