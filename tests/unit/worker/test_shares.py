"""What partitions may take on: no one all of it, one alone enough, and together no more than there is."""

from __future__ import annotations

import random

import pytest

from moderation.worker.shares import Held, Shares

LIMITS = Held(256, 256 << 20)


def test_one_busy_partition_may_take_all_that_one_may() -> None:
    shares = Shares({number: Held(0, 0) for number in range(6)}, LIMITS, 128)
    assert shares.free(0).posts == 128
    assert shares.free(0).bytes > 128 << 20


def test_full_partitions_leave_a_part_to_a_quiet_one() -> None:
    shares = Shares({number: Held(0, 0) for number in range(6)}, LIMITS, 128)
    for full in (0, 1, 2):
        free = shares.free(full)
        shares.take(full, free)
    assert shares.free(0).posts == shares.free(1).posts == 0
    for quiet in (3, 4, 5):
        assert shares.free(quiet) == Held(256 // 12, (256 << 20) // 12)


@pytest.mark.parametrize("seed", range(20))
def test_together_they_never_take_more_than_there_is(seed: int) -> None:
    random.seed(seed)
    count, limit, each = random.randint(1, 40), Held(random.randint(1, 300), random.randint(1, 10_000)), 20
    held = {number: Held(0, 0) for number in range(count)}
    for _ in range(300):
        shares = Shares(held, limit, each)
        for number in random.sample(range(count), count):
            free = shares.free(number)
            if free.posts > 0 and free.bytes > 0:
                taken = Held(random.randint(0, free.posts), random.randint(0, free.bytes))
                shares.take(number, taken)
                held[number] = Held(held[number].posts + taken.posts, held[number].bytes + taken.bytes)
        assert sum(share.posts for share in held.values()) <= limit.posts
        assert sum(share.bytes for share in held.values()) <= limit.bytes
        assert all(share.posts <= each for share in held.values())
        for number in held:
            if random.random() < 0.3:
                held[number] = Held(0, 0)


def test_a_post_larger_than_the_bound_goes_alone() -> None:
    shares = Shares({0: Held(0, 0), 1: Held(0, 0)}, Held(10, 100), 10)
    assert shares.alone(0)
    shares.take(0, Held(1, 500))
    assert not shares.alone(0)
    assert not shares.alone(1)
    assert shares.free(1) == Held(8, 25)


def test_while_a_large_post_waits_no_partition_borrows() -> None:
    shares = Shares({0: Held(2, 40), 1: Held(0, 0)}, Held(10, 100), 10)
    shares.keep()
    assert shares.free(0).bytes == 0
    assert shares.free(1).bytes == 25
