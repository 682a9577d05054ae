from __future__ import annotations

from typing import Any

import pytest

from moderation.models.remote.usage import HOUR_S, MOST_TOKENS, SPAN_S, Budget, Usage
from tests.support.plain_wire import model_settings


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def a_budget(limit: float = 10.0, **prices: float | None) -> tuple[Budget, Clock]:
    clock = Clock()
    settings = model_settings("http://server/v1", budget_per_hour=limit, **{"input_price": 1.0} | prices)
    return Budget(settings, clock), clock


@pytest.mark.parametrize("wrong", [None, -1, "7", 1.5, float("nan"), MOST_TOKENS + 1, [1]])
def test_what_is_no_number_of_tokens_counts_nothing(wrong: Any) -> None:
    assert Usage(wrong, wrong, wrong) == Usage(0, 0, 0)
    assert Usage(7, wrong, 2) == Usage(7, 0, 2)


def test_no_more_tokens_are_cached_than_there_are() -> None:
    assert Usage(10, 20, 0) == Usage(10, 10, 0)


@pytest.mark.parametrize(("cached_price", "cost"), [(None, 1_000 * 2.0 + 10 * 8.0), (0.5, 600 * 2 + 400 * 0.5 + 80)])
def test_cached_tokens_have_their_own_price_if_there_is_one(cached_price: float | None, cost: float) -> None:
    budget, _ = a_budget(input_price=2.0, cached_price=cached_price, output_price=8.0)
    assert budget.cost(Usage(1_000, 400, 10)) == pytest.approx(cost / 1e6)


def test_a_budget_is_used_up_for_an_hour_to_a_minute() -> None:
    budget, clock = a_budget(10.0)
    used_up = []
    for seconds, cost in ((0, 6.0), (1_800, 3.0), (0, 1.0), (1_800 - 1, 0.0), (SPAN_S + 1, 0.0)):
        clock.now += seconds
        budget.spend(cost)
        used_up.append(budget.used_up)
    assert used_up == [False, False, True, True, False]
    assert budget.spent == 4.0
    clock.now += HOUR_S
    assert budget.spent == 0.0


def test_many_requests_take_no_more_memory_than_the_minutes_of_an_hour() -> None:
    budget, clock = a_budget(0.0)
    for _ in range(10_000):
        clock.now += 1
        budget.spend(0.001)
    assert len(budget._spent) <= HOUR_S / SPAN_S + 2
    assert budget.spent == pytest.approx(3.6, abs=0.1)


def test_without_a_limit_there_is_always_more() -> None:
    budget, _ = a_budget(0.0)
    budget.spend(1e9)
    assert not budget.used_up
