"""What a label says of a verdict under a whole set of policies."""

from __future__ import annotations

import pytest

from moderation.evaluation.posts.posts import WrongLineError
from moderation.evaluation.testing.expected import Expected, Miss, expected
from moderation.v1.verdict_pb2 import Finding, Outcome, Status, Verdict
from tests.support.builders import a_policy

CLAUSE = {"id": "C1", "text": "mentions it"}
LAKES = a_policy("lakes", violates=[{"id": "L1", "text": "a lake"}, CLAUSE], allows=[{"id": "L0", "text": "news"}])
PONDS = a_policy("ponds", violates=[{"id": "P1", "text": "a pond"}, CLAUSE])
BOTH = (LAKES, PONDS)


@pytest.mark.parametrize(
    ("label", "policy", "means"),
    [
        ("", "", None),
        ("violates", "", Expected(True)),
        ("No", "", Expected(False)),
        ("1", "lakes", Expected(True, "lakes")),
        ("allowed", "lakes", Expected(False, "lakes")),
        ("ponds", "", Expected(True, "ponds")),
        ("L1", "", Expected(True, "lakes")),
        ("L0", "", Expected(False, "lakes")),
        ("ponds/C1", "", Expected(True, "ponds")),
        ("C1", "ponds", Expected(True, "ponds")),
    ],
)
def test_a_label_is_a_policy_a_clause_or_a_word(label: str, policy: str, means: Expected | None) -> None:
    assert expected(label, BOTH, policy) == means


@pytest.mark.parametrize(
    ("label", "policy", "says"),
    [
        ("C1", "", "label: 2 policies have a clause C1: write lakes/C1 or ponds/C1"),
        ("L9", "", r"the id of a policy \(lakes, ponds\) or of one of their clauses"),
        ("L1", "ponds", "label: must be violates, allowed"),
        ("lakes/P1", "", "label: must be violates, allowed"),
    ],
)
def test_a_label_that_says_nothing_is_named(label: str, policy: str, says: str) -> None:
    with pytest.raises(WrongLineError, match=says):
        expected(label, BOTH, policy)


def verdict(lakes: str, ponds: str, status: Status = Status.STATUS_FINAL) -> Verdict:
    names = {"lakes": f"OUTCOME_{lakes}", "ponds": f"OUTCOME_{ponds}"}
    findings = [Finding(policy_id=id, outcome=name) for id, name in names.items()]
    return Verdict(outcome=max(names.values(), key=Outcome.Value), status=status, findings=findings)


@pytest.mark.parametrize(
    ("means", "judged", "miss"),
    [
        (Expected(True), verdict("ALLOW", "REVIEW"), Miss.NONE),
        (Expected(True), verdict("ALLOW", "ALLOW"), Miss.MISSED),
        (Expected(False), verdict("ALLOW", "ALLOW"), Miss.NONE),
        (Expected(False), verdict("ALLOW", "REMOVE"), Miss.FALSE_ALARM),
        (Expected(True, "lakes"), verdict("ALLOW", "REMOVE"), Miss.MISSED),
        (Expected(False, "lakes"), verdict("ALLOW", "REMOVE"), Miss.NONE),
        (Expected(True, "seas"), verdict("REMOVE", "REMOVE"), Miss.MISSED),  # it does not apply to the post
        (Expected(True), verdict("REVIEW", "REVIEW", Status.STATUS_UNDETERMINED), Miss.NOT_JUDGED),
    ],
)
def test_a_miss_is_what_the_label_does_not_say(means: Expected, judged: Verdict, miss: Miss) -> None:
    assert means.miss(judged) is miss
