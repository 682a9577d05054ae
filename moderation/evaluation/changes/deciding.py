"""`policies.decision` in columns: the outcomes of many findings at once, as `decided` and `decide` give them.

A test holds both to the same outcomes. Change them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from moderation.evaluation.traffic.rows import codes, words
from moderation.policies import Policy
from moderation.policies.certificates import Footing
from moderation.types import Detail, Outcome, Problem, Reason, Standing

OUTCOMES = {outcome.name: int(outcome) for outcome in Outcome}
WHOLE, PICTURE, TEXT = 1, 2, 4  # which parts of a post were not read: bits
LIMIT = 8  # factor of these bits for parts that our limit cut off

Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of some verdicts. Each array has one member for each finding."""

    row: Numbers  # of the verdict in its batch
    policy: Numbers  # place in the list of policies; -1: none of them
    probability: Floats  # NaN: no score
    margin: Floats
    mass: Floats  # infinite: not reported
    windows: Numbers
    silent: Flags  # whether a window has no answer, so that the policy's on_error counts
    yes: Flags  # whether a window was answered with Yes, without a probability
    unread: Numbers  # bits of the parts of its post that were not read
    recorded: Flags  # whether it can be decided again


@dataclass(frozen=True, slots=True)
class Rules:
    """What turns scores into outcomes. Each array has one member for each policy."""

    review: Floats
    remove: Floats
    mass: Floats
    on_error: Numbers
    about: Numbers  # bits of the parts that it is about
    required: Flags  # whether it requires a certificate

    @classmethod
    def of(cls, policies: Sequence[Policy]) -> Rules:
        """Those of some policies."""
        return cls(
            review=np.array([policy.thresholds.review for policy in policies]),
            remove=np.array([policy.thresholds.remove for policy in policies]),
            mass=np.array([policy.thresholds.mass for policy in policies]),
            on_error=np.array([int(policy.outcome_on_error) for policy in policies]),
            about=np.array([_about(policy) for policy in policies]),
            required=np.array([policy.certificate == "required" for policy in policies]),
        )


def findings_of(batch: pa.RecordBatch, ids: Mapping[str, int]) -> Findings:
    """The findings of a batch of verdicts. ids: the place of each policy."""
    lists = batch.column("findings")
    flat = lists.flatten()
    row = np.repeat(np.arange(batch.num_rows), pc.list_value_length(lists).fill_null(0).to_numpy())
    fields = {name: flat.field(name) for name in READ}
    silence = codes(fields["silence"], {"": 0, Reason.NO_PROBABILITY: 0}, 1)
    windows = fields["windows"].to_numpy(zero_copy_only=False).astype(np.int64)
    scored = np.asarray(fields["probability"].is_valid())
    answered = np.asarray(fields["answered"].is_valid())
    plain = codes(fields["reason"], {"": 1}, 0) == 1
    return Findings(
        row=row,
        policy=codes(fields["policy"], ids),
        probability=_floats(fields["probability"]),
        margin=_floats(fields["margin"]),
        mass=_floats(fields["mass"].fill_null(np.inf)),
        windows=windows,
        silent=(windows == 0) | (silence == 1),
        yes=np.asarray(fields["yes"].fill_null(False)),
        unread=_unread(batch)[row],
        recorded=answered | ((windows <= 1) & plain & scored),  # as in Said.recorded
    )


READ = ("policy", "probability", "margin", "mass", "windows", "answered", "reason", "silence", "yes")


def outcomes(rules: Rules, findings: Findings, strictest: Numbers, valid: Flags) -> tuple[Numbers, Flags]:
    """The outcome of each finding, and whether it is REVIEW in place of REMOVE for want of a certificate.

    strictest: for each finding, the strictest outcome that its model may give. valid: whether its policy has a
    certificate that holds. Findings of no policy have the outcome of the first one.
    """
    policy = np.maximum(findings.policy, 0)
    weighty = np.isfinite(findings.margin) & (findings.mass >= rules.mass[policy])
    above = (findings.probability >= rules.review[policy]).astype(np.int64)
    above += findings.probability >= rules.remove[policy]
    base = np.where(weighty, 1 + above, int(Outcome.ALLOW))
    unread = findings.unread & (rules.about[policy] * (1 + LIMIT))
    failed = (unread & (LIMIT - 1) > 0) | findings.silent
    outcome = np.where(findings.yes, np.maximum(base, Outcome.REVIEW), base)
    outcome = np.where(failed, np.maximum(outcome, rules.on_error[policy]), outcome)
    outcome = np.where(unread >= LIMIT, np.maximum(outcome, Outcome.REVIEW), outcome)
    outcome = np.minimum(outcome, strictest)
    held = (outcome == Outcome.REMOVE) & rules.required[policy] & ~valid
    return np.where(held, int(Outcome.REVIEW), outcome), held


def strictest_of(rows: int, row: Numbers, outcome: Numbers, counts: Flags) -> Numbers:
    """The outcome of each verdict: the strictest of its findings that count; ALLOW without one.

    row: of each finding, in rising order.
    """
    decided = np.full(rows, int(Outcome.ALLOW))
    if len(row):
        first = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
        decided[row[first]] = np.maximum.reduceat(np.where(counts, outcome, int(Outcome.ALLOW)), first)
    return decided


def holds(footing: Footing) -> bool:
    """Whether a policy's certificate holds."""
    return footing.standing is Standing.VALID


def _about(policy: Policy) -> int:
    media = policy.applies_to.media
    return WHOLE | (PICTURE if "image" in media else 0) | (TEXT if "text" in media else 0)


def _unread(batch: pa.RecordBatch) -> Numbers:
    """Bits of each verdict: which of its parts were not read."""
    lists = batch.column("problems")
    bits = np.zeros(batch.num_rows, dtype=np.int64)
    flat = lists.flatten()
    if not len(flat):
        return bits
    row = np.repeat(np.arange(batch.num_rows), pc.list_value_length(lists).fill_null(0).to_numpy())
    parts = [flat.field(name) for name in ("reason", "path", "detail")]
    known = [{word: place for place, word in enumerate(words(part))} for part in parts]
    numbers = np.stack([codes(part, places) for part, places in zip(parts, known, strict=True)], axis=1)
    kinds, kind = np.unique(numbers, axis=0, return_inverse=True)
    names = [list(places) for places in known]
    meaning = np.array([_bits(*(names[part][code] for part, code in enumerate(each))) for each in kinds.tolist()])
    np.bitwise_or.at(bits, row, meaning[kind.reshape(-1)])
    return bits


def _bits(reason: str, path: str, detail: str) -> int:
    """Of one problem. A reason or a detail of a newer version counts as a part that was not read, without a limit."""
    known = Reason(reason) if reason in set(Reason) else Reason.NOT_DECODABLE
    problem = Problem(known, path, Detail(detail) if detail in set(Detail) else None)
    part = WHOLE if not path else PICTURE if problem.of_picture else TEXT
    return part * (1 + LIMIT) if problem.limit else part


def _floats(column: pa.Array) -> Floats:
    """Null becomes NaN."""
    found: Any = column.to_numpy(zero_copy_only=False)
    return np.asarray(found, dtype=np.float64)
