"""What the chaos set's checker sees, on topics made by hand: it must be worth as much as a green run says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytest
from aiokafka import ConsumerRecord

from moderation.types import Source
from moderation.wire import json_out
from tests.chaos.checker import ERASED, Findings, Sent, check
from tests.support.builders import a_finding, a_verdict


def a_record(value: bytes | None, key: bytes, partition: int = 0, *headers: tuple[str, bytes]) -> ConsumerRecord:
    return ConsumerRecord("verdicts", partition, 0, 0, 0, key, value, None, 0, len(value or b""), tuple(headers))


def said(offset: int, post: str = "a", mass: float = 0.98, *, partition: int = 0, **changes: Any) -> ConsumerRecord:
    """The verdict on the record at an offset, as a worker writes it."""
    finding = a_finding()
    assert finding.score is not None
    one = a_verdict(post, source=Source("posts", partition, offset, 0), findings=(finding,))
    value = json.loads(json_out.dumps(one, "")) | changes
    for each in value["findings"]:
        each["mass"] = mass
    return a_record(json.dumps(value).encode(), post.encode(), partition)


def erased(offset: int, post: str = "a") -> ConsumerRecord:
    return a_record(None, post.encode(), 0, ("erased-by", f"posts/0/{offset}".encode()))


def sent(*posts: str, partition: int = 0) -> list[Sent]:
    """Records of one partition, in order; with a ! behind it: its erasure."""
    return [
        Sent((partition, offset), b"key", post.rstrip("!"), ERASED if post.endswith("!") else "")
        for offset, post in enumerate(posts)
    ]


def wrongs(found: Findings) -> dict[str, int]:
    return {name: value for name, value in asdict(found).items() if isinstance(value, int) and value}


@pytest.mark.parametrize(
    ("posts", "verdicts", "expected"),
    [
        ("ab", [said(0), said(1, "b", 0.97)], {}),
        ("ab", [said(0)], {"missing": 1}),
        ("ab", [said(0), said(0), said(1, "b")], {"duplicated": 1}),
        ("ab", [said(0), said(0, mass=0.97), said(1, "b")], {"duplicated": 1, "contradictory": 1}),
        ("ab", [said(1, "b"), said(0)], {"out_of_order": 1}),
        ("a", [said(0), said(1)], {"strays": 1}),
        ("a", [said(0, "b")], {"strays": 1, "missing": 1}),
        ("a", [said(0, reason="MODEL_FAILED")], {"wrong_dead_letters": 1}),
    ],
)
def test_each_record_is_answered_once_and_in_order(
    posts: Sequence[str], verdicts: Sequence[ConsumerRecord], expected: dict[str, int]
) -> None:
    assert wrongs(check(sent(*posts), verdicts, [])) == expected


@pytest.mark.parametrize(
    ("posts", "verdicts", "forgotten"),
    [
        pytest.param("aaa", [said(0), said(1), said(2)], 0, id="from the cache"),
        pytest.param("aaa", [said(0), said(1), said(2, mass=0.97)], 1, id="judged again"),
        pytest.param("aa", [said(0), said(1, outcome="OUTCOME_REMOVE")], 1, id="another outcome"),
        pytest.param("ab", [said(0), said(1, "b", 0.97)], 0, id="another post"),
        pytest.param("aa", [said(0), said(1, mass=0.97, contentDigest="b")], 0, id="an edit"),
        pytest.param("aa", [said(0), said(1, mass=0.97, tenant="b")], 0, id="another tenant"),
        pytest.param("aa", [said(0), said(1, mass=0.97, model={"digest": "b"})], 0, id="another model"),
        pytest.param("aa", [said(0), said(1, mass=0.97, policySet={"digest": "b"})], 0, id="other policies"),
        pytest.param(
            "aaa",
            [said(0), said(1, mass=0.97, contentDigest="b"), said(2, mass=0.96)],
            1,
            id="back from an edit, judged again",
        ),
        pytest.param(
            ["a", "a!", "a", "a"],
            [said(0), erased(1), said(2, mass=0.97), said(3, mass=0.97)],
            0,
            id="erased between",
        ),
        pytest.param(
            ["a", "a!", "a", "a"],
            [said(0), erased(1), said(2, mass=0.97), said(3, mass=0.96)],
            1,
            id="judged again after its erasure",
        ),
        pytest.param(["a", "b!", "a"], [said(0), erased(1, "b"), said(2, mass=0.97)], 1, id="another post's erasure"),
    ],
)
def test_a_post_that_is_unchanged_says_what_it_said(
    posts: Sequence[str], verdicts: Sequence[ConsumerRecord], forgotten: int
) -> None:
    found = check(sent(*posts), verdicts, [])
    assert wrongs(found) == ({"forgotten": forgotten} if forgotten else {})
    assert bool(found.examples) == bool(forgotten)


def test_what_failed_may_say_something_else() -> None:
    def failed(offset: int, mass: float) -> ConsumerRecord:
        record = said(offset, mass=mass)
        value = json.loads(record.value)
        value["findings"][0]["reason"] = "MODEL_FAILED"
        return a_record(json.dumps(value).encode(), record.key)

    assert wrongs(check(sent("a", "a"), [failed(0, 0.98), failed(1, 0.97)], [])) == {}
    assert wrongs(check(sent("a", "a"), [failed(0, 0.98), said(1, mass=0.97)], [])) == {}


def test_a_dead_letter_is_there_for_what_cannot_be_read_and_for_nothing_else() -> None:
    def letter(offset: int, code: str = "NOT_DECODABLE") -> ConsumerRecord:
        told = {"dlq.original.partition": "0", "dlq.original.offset": str(offset), "dlq.error.code": code}
        return a_record(b"x", b"key", 0, *((name, value.encode()) for name, value in told.items()))

    unreadable = [Sent((0, 0), None, "", "NOT_DECODABLE")]
    answer = said(0, reason="NOT_DECODABLE", findings=[])
    assert wrongs(check(unreadable, [answer], [letter(0)])) == {}
    assert wrongs(check(unreadable, [answer], [])) == {"wrong_dead_letters": 1}
    assert wrongs(check(unreadable, [answer], [letter(0, "INVALID_POST")])) == {"wrong_dead_letters": 1}
    assert wrongs(check(sent("a"), [said(0)], [letter(0)])) == {"wrong_dead_letters": 1}
