"""Verdicts of the past: made as a worker makes them, from answers of a model that say all kinds of things."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from moderation import wire
from moderation.evaluation.traffic.rows import Place, Rows
from moderation.policies import Policy, PolicySet, State, States, decide, finding_of
from moderation.policies.certificates import Certificate
from moderation.types import (
    Answer,
    Detail,
    ModelInfo,
    Origin,
    Outcome,
    Problem,
    Reason,
    Score,
    Source,
    Verdict,
    YesNo,
)
from tests.support import certificates
from tests.support.builders import a_policy, a_verdict

MODEL = ModelInfo("fake", "", "a" * 64)
NOW = 1_780_000_000.0
DAY_MS = 86_400_000
PARTS = [
    Problem(Reason.IMAGE_CORRUPT, "images[0].data", Detail.BASE64),
    Problem(Reason.IMAGE_NOT_FOUND, "images[1]"),
    Problem(Reason.IMAGE_TOO_LARGE, "images[0]"),
    Problem(Reason.TEXT_TOO_LONG, "text"),
    Problem(Reason.NOT_DECODABLE, "images[0].alt", Detail.LONE_SURROGATE),
    Problem(Reason.DEADLINE_EXCEEDED, "text"),
    Problem(Reason.MODEL_FAILED),
]
EDGES = [0.05, 0.3, 0.45, 0.5, 0.55, 0.7, 0.8, 0.9, 0.95]  # probabilities, most of them thresholds of a test
SILENT: Sequence[Answer] = [
    Reason.NO_ANSWER,
    Reason.MODEL_FAILED,
    Reason.REFUSED,
    Reason.NO_PROBABILITY,
    Score(0.99, 4.6, 0.1),
    Score(0.99, math.nan, 1.0),
    Score(0.99, 4.6, math.nan),
]


class Past(NamedTuple):
    """A verdict, and what the model had answered on each window, by policy."""

    verdict: Verdict
    answers: Mapping[str, Sequence[Answer]]


def a_certificate(policy: Policy, model: ModelInfo = MODEL, **fields: Any) -> Certificate:
    """One that holds for the policy with the model of these verdicts, for ten days from NOW."""
    times = {
        "issued_at": datetime.fromtimestamp(NOW, UTC),
        "expires_at": datetime.fromtimestamp(NOW + 10 * 86_400, UTC),
    }
    return certificates.a_certificate(policy, model_digest=model.digest, **times | fields)


def a_set(*policies: Policy, certificates: Mapping[str, Certificate] | None = None) -> PolicySet:
    return replace(PolicySet.of(policies), certificates=certificates or {})


def changed(policies: PolicySet, id: str, **fields: Any) -> PolicySet:
    """The set with another policy of this id: fields as in its file."""
    others = [
        a_policy(**each.model_dump(mode="json", exclude={"id"}) | fields, id=id) if each.id == id else each
        for each in policies.policies
    ]
    return a_set(*others, certificates=policies.certificates)


def answers(random: random.Random) -> list[Answer]:
    """What a model says on one to three windows; at times nothing was asked."""
    if random.random() < 0.05:
        return []
    said: list[Answer] = []
    for _ in range(random.choice([1, 1, 2, 3])):
        draw = random.random()
        if draw < 0.7:
            said.append(
                a_score(random.choice([0.05, 0.3, 0.45, 0.5, 0.55, 0.7, 0.8, 0.9, 0.95, random.random()]), random)
            )
        elif draw < 0.8:
            said.append(YesNo(random.random() < 0.5))
        else:
            said.append(random.choice(SILENT))
    return said


def a_score(probability: float, random: random.Random) -> Score:
    probability = min(max(probability, 1e-6), 1 - 1e-6)
    mass = random.choice([None, 1.0, 0.5, 0.7])
    return Score(probability, math.log(probability / (1 - probability)), mass)


def state_of(policies: PolicySet) -> State:
    """The decision state of a set at NOW, with MODEL."""
    key = policies.digest, *sorted(certificate.id for certificate in policies.certificates.values())
    if key not in _states:
        _states[key] = States(policies.policies, policies.certificates, MODEL.digest).at(NOW)
    return _states[key]


_states: dict[tuple[str, ...], State] = {}


def past(random: random.Random, policies: PolicySet, number: int, strictest: Outcome = Outcome.REMOVE) -> Past:
    """A verdict as a worker of the set writes it, on a post of which parts may be unread."""
    asked = [policy for policy in policies.policies if policy.asked and random.random() < 0.9]
    state = state_of(policies)
    problems = tuple(random.sample(PARTS, random.choice([0, 0, 0, 1, 2])))
    said = {policy.id: answers(random) for policy in asked}
    findings = tuple(
        finding_of(policy, said[policy.id], strictest, problems, state.footings[policy.id]) for policy in asked
    )
    decision = decide(findings)
    verdict = a_verdict(
        f"post-{number}",
        tenant=random.choice(["", "shop", "news"]),
        policy_set_digest=policies.digest,
        model=replace(MODEL, alias=strictest is Outcome.REVIEW),
        outcome=decision.outcome,
        status=decision.status,
        origin=Origin.MODEL if any(said.values()) else Origin.NONE,
        deciding_policy=decision.deciding_policy,
        severity=decision.severity,
        findings=findings,
        problems=problems,
        source=Source("posts", number % 3, number // 3, int(NOW * 1000) + number),
        decided_at_ms=int(NOW * 1000) + number,
        decision_state=state.text,
    )
    return Past(verdict, said)


def rows_of(verdicts: Sequence[Verdict], *, batch: int = 700) -> list[Any]:
    """Batches of rows of these verdicts."""
    batches = []
    for start in range(0, len(verdicts), batch):
        rows = Rows()
        for number, verdict in enumerate(verdicts[start : start + batch], start):
            rows.add(wire.verdict_message(verdict), Place(verdict.decided_at_ms, "t", number % 3, number // 3))
        batches.append(rows.taken())
    return batches
