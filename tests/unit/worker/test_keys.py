"""Posts on a partition that murmur2 would not choose are counted, and logged now and then."""

from __future__ import annotations

from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.types import Source
from moderation.worker.keys import LOG_S, KeyCheck


def misplaced() -> float:
    return REGISTRY.get_sample_value("moderation_keys_misplaced_total") or 0.0


def test_a_misplaced_key_is_counted_and_logged_once_in_a_while() -> None:
    now, before = 0.0, misplaced()
    keys = KeyCheck(lambda: 3, lambda: now)
    with capture_logs() as events:
        keys.check("shop-1", Source("posts", 2, 0, 0))  # its place
        assert (misplaced() - before, events) == (0, [])
        for offset in range(5):
            keys.check("shop-1", Source("posts", 0, offset, 0))
        now = LOG_S
        keys.check("shop-1", Source("posts", 0, 9, 0))
    assert misplaced() - before == 6
    assert [(event["event"], event["records"], event["offset"]) for event in events] == [
        ("keys_misplaced", 1, 0),
        ("keys_misplaced", 5, 9),
    ]
    assert (events[0]["post_id"], events[0]["partition"], events[0]["expected"]) == ("shop-1", 0, 2)


def test_a_record_without_an_id_and_a_topic_of_unknown_size_are_not_counted() -> None:
    before = misplaced()
    KeyCheck(lambda: 3).check("kafka:posts/0/7", Source("posts", 0, 7, 0))
    KeyCheck(lambda: 0).check("shop-1", Source("posts", 0, 7, 0))
    KeyCheck(lambda: 1).check("shop-1", Source("posts", 0, 7, 0))
    assert misplaced() == before
