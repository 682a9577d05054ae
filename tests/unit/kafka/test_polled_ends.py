"""Between which moments records arrived, by polls of the end of their partition."""

from __future__ import annotations

import math
import random

import pytest

from moderation.kafka.polled_ends import MAX_ENDS, PolledEnds


@pytest.mark.parametrize("seed", range(5))
def test_a_window_holds_the_arrival_however_many_polls_there_were(seed: int) -> None:
    at_random = random.Random(seed)
    ends, now, arrived = PolledEnds(), 0.0, list[float]()
    for _ in range(5 * MAX_ENDS):
        for _ in range(at_random.choice([0, 0, 1, 5])):
            now += at_random.random()
            arrived.append(now)
        sent, now = now + 0.1, now + 0.3
        ends.add(len(arrived), sent, now)
    for offset, moment in enumerate(arrived):
        low, high = ends.window(offset)
        assert low <= moment <= high, offset
    low, high = ends.window(len(arrived) - 1)
    assert high - low < 20, "the newest windows are as narrow as the polls"
    assert len(ends._ends) <= MAX_ENDS


def test_another_log_begins_anew() -> None:
    ends = PolledEnds()
    ends.add(100, 1.0, 1.1)
    ends.add(3, 2.0, 2.1)  # the topic was deleted and made again
    assert ends.window(2) == (-math.inf, 2.1)
    assert ends.window(50) == (2.0, math.inf)
