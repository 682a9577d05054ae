"""The chaos set's checker on topics made by hand: each broken promise is reported, and nothing else."""

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


def verdict_on(
    offset: int, post: str = "a", mass: float = 0.98, *, partition: int = 0, **changes: Any
) -> ConsumerRecord:
    """The verdict on the record at an offset, as a worker writes it."""
    finding = a_finding()
    assert finding.score is not None
    verdict = a_verdict(post, source=Source("posts", partition, offset, 0), findings=(finding,))
    value = json.loads(json_out.dumps(verdict, "")) | changes
    for policy in value["findings"]:
        policy["mass"] = mass
    return a_record(json.dumps(value).encode(), post.encode(), partition)


def erased(offset: int, post: str = "a") -> ConsumerRecord:
    return a_record(None, post.encode(), 0, ("erased-by", f"posts/0/{offset}".encode()))


def erased_too(offset: int) -> ConsumerRecord:
    """On another partition, by a copy of the erasure at this offset."""
    return a_record(None, b"a", 1, ("erased-by", b"posts/1/99"), ("copy-of", f"posts/0/{offset}".encode()))


def sent(*posts: str, partition: int = 0) -> list[Sent]:
    """Records of one partition, in order; with a ! behind it: its erasure."""
    return [
        Sent((partition, offset), b"key", post.rstrip("!"), ERASED if post.endswith("!") else "")
        for offset, post in enumerate(posts)
    ]


def wrongs(findings: Findings) -> dict[str, int]:
    return {name: value for name, value in asdict(findings).items() if isinstance(value, int) and value}


@pytest.mark.parametrize(
    ("posts", "verdicts", "expected"),
    [
        ("ab", [verdict_on(0), verdict_on(1, "b", 0.97)], {}),
        ("ab", [verdict_on(0)], {"missing": 1}),
        ("ab", [verdict_on(0), verdict_on(0), verdict_on(1, "b")], {"duplicated": 1}),
        ("ab", [verdict_on(0), verdict_on(0, mass=0.97), verdict_on(1, "b")], {"duplicated": 1, "contradictory": 1}),
        ("ab", [verdict_on(1, "b"), verdict_on(0)], {"out_of_order": 1}),
        ("a", [verdict_on(0), verdict_on(1)], {"strays": 1}),
        ("a", [verdict_on(0, "b")], {"strays": 1, "missing": 1}),
        (["a!"], [erased(0), erased_too(0)], {}),
        (["a!"], [erased_too(0)], {"missing": 1}),
        ("a", [verdict_on(0), erased_too(0)], {"strays": 1}),
        ("a", [verdict_on(0, reason="MODEL_FAILED")], {"wrong_dead_letters": 1}),
    ],
)
def test_a_record_without_one_verdict_in_its_order_is_reported(
    posts: Sequence[str], verdicts: Sequence[ConsumerRecord], expected: dict[str, int]
) -> None:
    assert wrongs(check(sent(*posts), verdicts, [])) == expected


@pytest.mark.parametrize(
    ("posts", "verdicts", "forgotten"),
    [
        pytest.param("aaa", [verdict_on(0), verdict_on(1), verdict_on(2)], 0, id="from the cache"),
        pytest.param("aaa", [verdict_on(0), verdict_on(1), verdict_on(2, mass=0.97)], 1, id="judged again"),
        pytest.param("aa", [verdict_on(0), verdict_on(1, outcome="OUTCOME_REMOVE")], 1, id="another outcome"),
        pytest.param("ab", [verdict_on(0), verdict_on(1, "b", 0.97)], 0, id="another post"),
        pytest.param("aa", [verdict_on(0), verdict_on(1, mass=0.97, contentDigest="b")], 0, id="an edit"),
        pytest.param("aa", [verdict_on(0), verdict_on(1, mass=0.97, tenant="b")], 0, id="another tenant"),
        pytest.param("aa", [verdict_on(0), verdict_on(1, mass=0.97, model={"digest": "b"})], 0, id="another model"),
        pytest.param(
            "aa", [verdict_on(0), verdict_on(1, mass=0.97, policySet={"digest": "b"})], 0, id="other policies"
        ),
        pytest.param(
            "aaa",
            [verdict_on(0), verdict_on(1, mass=0.97, contentDigest="b"), verdict_on(2, mass=0.96)],
            1,
            id="back from an edit, judged again",
        ),
        pytest.param(
            ["a", "a!", "a", "a"],
            [verdict_on(0), erased(1), verdict_on(2, mass=0.97), verdict_on(3, mass=0.97)],
            0,
            id="erased between",
        ),
        pytest.param(
            ["a", "a!", "a", "a"],
            [verdict_on(0), erased(1), verdict_on(2, mass=0.97), verdict_on(3, mass=0.96)],
            1,
            id="judged again after its erasure",
        ),
        pytest.param(
            ["a", "b!", "a"], [verdict_on(0), erased(1, "b"), verdict_on(2, mass=0.97)], 1, id="another post's erasure"
        ),
    ],
)
def test_another_decision_on_an_unchanged_post_is_reported(
    posts: Sequence[str], verdicts: Sequence[ConsumerRecord], forgotten: int
) -> None:
    findings = check(sent(*posts), verdicts, [])
    assert wrongs(findings) == ({"forgotten": forgotten} if forgotten else {})
    assert bool(findings.examples) == bool(forgotten)


def test_another_decision_after_a_failure_is_not_reported() -> None:
    def failed(offset: int, mass: float) -> ConsumerRecord:
        record = verdict_on(offset, mass=mass)
        value = json.loads(record.value)
        value["findings"][0]["reason"] = "MODEL_FAILED"
        return a_record(json.dumps(value).encode(), record.key)

    assert wrongs(check(sent("a", "a"), [failed(0, 0.98), failed(1, 0.97)], [])) == {}
    assert wrongs(check(sent("a", "a"), [failed(0, 0.98), verdict_on(1, mass=0.97)], [])) == {}


def test_a_dead_letter_too_many_or_too_few_is_reported() -> None:
    def letter(offset: int, code: str = "NOT_DECODABLE") -> ConsumerRecord:
        headers = {"dlq.original.partition": "0", "dlq.original.offset": str(offset), "dlq.error.code": code}
        return a_record(b"x", b"key", 0, *((name, value.encode()) for name, value in headers.items()))

    unreadable = [Sent((0, 0), None, "", "NOT_DECODABLE")]
    verdict = verdict_on(0, reason="NOT_DECODABLE", findings=[])
    assert wrongs(check(unreadable, [verdict], [letter(0)])) == {}
    assert wrongs(check(unreadable, [verdict], [])) == {"wrong_dead_letters": 1}
    assert wrongs(check(unreadable, [verdict], [letter(0, "INVALID_POST")])) == {"wrong_dead_letters": 1}
    assert wrongs(check(sent("a"), [verdict_on(0)], [letter(0)])) == {"wrong_dead_letters": 1}
