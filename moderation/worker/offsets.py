"""The offsets of one partition that are in hand, in order, and their outcomes. Knows no Kafka.

Offsets are those that were delivered, never computed: compaction and transaction markers leave gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, takewhile
from typing import Generic, TypeVar

from moderation.errors import DeliveryError

T = TypeVar("T")


class Offsets(Generic[T]):
    """Delivered offsets with their results, until they are committed."""

    def __init__(self, position: int) -> None:
        """`position`: the first offset without an outcome."""
        self._next = position
        self._results: dict[int, T | None] = {}  # by offset, in their order: delivered, and not yet committed

    def __len__(self) -> int:
        return len(self._results)

    def __contains__(self, offset: object) -> bool:
        return offset in self._results

    @property
    def reached(self) -> int:
        """The first offset that may be delivered."""
        return self._next

    def deliver(self, offset: int) -> None:
        """Adds an offset. Raises DeliveryError if this offset, or a later one, was delivered before."""
        if offset < self._next:
            raise DeliveryError(
                f"offset {offset} came where {self._next} or later was expected: the log was truncated, or its topic "
                "recreated. The next start finds where to go on"
            )
        self._next = offset + 1
        self._results[offset] = None

    def settle(self, offset: int, result: T) -> None:
        """Sets the result of an offset. Ignores an offset that was given up: another worker judges it."""
        if offset in self._results:
            self._results[offset] = result

    def prefix(self, limit: int) -> list[tuple[int, T]]:
        """Returns offsets with their results, from the first up to the first without a result; at most `limit`."""
        done = takewhile(lambda entry: entry[1] is not None, self._results.items())
        return [(offset, result) for offset, result in islice(done, limit) if result is not None]

    def commit(self, prefix: Sequence[tuple[int, T]]) -> None:
        """Removes this prefix: it is committed."""
        for offset, _ in prefix:
            del self._results[offset]

    def give_up(self) -> int:
        """Keeps the results before the first offset without one. Returns how many offsets had no result."""
        unsettled = sum(result is None for result in self._results.values())
        whole = self.prefix(len(self._results))
        self._results = dict(whole)
        return unsettled
