"""Tokens that a model server counted, what they cost, and the budget of an hour."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from moderation.settings import ModelSettings

HOUR_S = 3_600.0
MOST_TOKENS = 1 << 40  # of one request
SPAN_S = 60.0  # spendings are added up for this long, so an hour is exact to a minute


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as its server reports them. What is no number of tokens counts 0."""

    input: int = 0  # cached tokens included
    cached: int = 0  # of the input
    output: int = 0

    def __post_init__(self) -> None:
        for name in ("input", "cached", "output"):
            object.__setattr__(self, name, _tokens(getattr(self, name)))
        object.__setattr__(self, "cached", min(self.cached, self.input))

    def __add__(self, other: Usage) -> Usage:
        """Tokens of both."""
        return Usage(self.input + other.input, self.cached + other.cached, self.output + other.output)


def _tokens(count: object) -> int:
    """The client's library checks no type, and a metric refuses what is below 0."""
    return count if isinstance(count, int) and 0 < count <= MOST_TOKENS else 0


class Budget:
    """What a process may spend in any 60 minutes. A restart begins at zero."""

    def __init__(self, settings: ModelSettings, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: returns seconds."""
        self._limit = settings.budget_per_hour
        self._prices = (
            settings.input_price,
            settings.input_price if settings.cached_price is None else settings.cached_price,
            settings.output_price,
        )
        self._clock = clock
        self._spent: deque[tuple[float, float]] = deque()  # end of a span, and what was spent in it

    def cost(self, usage: Usage) -> float:
        """Money, in the currency of the prices."""
        price, cached, output = self._prices
        return ((usage.input - usage.cached) * price + usage.cached * cached + usage.output * output) / 1e6

    def spend(self, cost: float) -> None:
        """Adds the cost of a request that was answered."""
        now = self._clock()
        self._forget()
        if self._spent and now < self._spent[-1][0]:
            end, spent = self._spent.pop()
            self._spent.append((end, spent + cost))
        else:
            self._spent.append((now + SPAN_S, cost))

    @property
    def spent(self) -> float:
        """Money spent in the last 60 minutes."""
        self._forget()
        return sum(cost for _, cost in self._spent)

    @property
    def used_up(self) -> bool:
        """Whether no further request may be made now. Requests that are under way may still exceed the budget."""
        return bool(self._limit) and self.spent >= self._limit

    def _forget(self) -> None:
        begin = self._clock() - HOUR_S
        while self._spent and self._spent[0][0] <= begin:
            self._spent.popleft()
