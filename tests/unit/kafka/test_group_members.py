"""Which member of a consumer group is a worker of this service."""

from __future__ import annotations

import pytest

import moderation
from moderation.kafka.group_members import HIDDEN, Member, client_id, is_worker


@pytest.mark.parametrize(
    ("name", "topics", "worker"),
    [
        (client_id("verdicts"), ["posts"], True),
        (client_id("verdicts"), [], True),  # while the group moves its partitions
        ("moderation-0.0.9/verdicts", ["posts"], True),
        ("moderation-2.0.0rc1+dirty/verdicts", ["posts"], True),
        (f"moderation-{moderation.__version__}", ["posts"], True),  # of before the verdicts topic was named
        (client_id("verdicts"), ["posts", "more"], True),
        (client_id("other"), ["posts"], False),
        (client_id("verdicts"), ["other"], False),
        ("moderation-0.0.9", ["other"], False),
        ("moderation-backend", ["posts"], False),
        ("moderation", ["posts"], False),
        ("console-consumer", ["posts"], False),
        ("aiokafka-0.14.0", ["posts"], False),
        ("", ["posts"], False),
    ],
)
def test_workers_are_known_by_client_id_and_topics(name: str, topics: list[str], worker: bool) -> None:
    member = Member(name, "10.0.0.7", frozenset(topics), 3)
    assert is_worker(member, "posts", "verdicts") is worker


def test_a_member_that_brokers_do_not_show_is_no_worker() -> None:
    assert not is_worker(HIDDEN, "posts", "verdicts")
