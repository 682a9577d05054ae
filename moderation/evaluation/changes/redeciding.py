"""What other thresholds would have done to past traffic: verdicts are decided again from the scores that they hold.

No model is asked. `redecide` takes the rows of verdicts (rows.py), from the archive or from the topic, and decides each
by an old and by a new policy set, exactly as a worker would (deciding.py). Certificates count as they are now.

It decides verdicts whose findings have the scores of the old set: the same prose, model and preparation, and the same
`mass`. The others are counted, with the reason.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from moderation.errors import ConfigError
from moderation.evaluation.changes import deciding
from moderation.evaluation.changes.deciding import Findings, Flags, Numbers, Rules
from moderation.evaluation.changes.flipped import SHOWN, Closest, Flip, crossed
from moderation.evaluation.changes.redecided import LEFT_OUT, OTHERS, Redecided, Why, cells_of, grouped
from moderation.evaluation.changes.strata import logit
from moderation.evaluation.traffic.rows import codes, words
from moderation.policies import Policy, PolicySet, States
from moderation.types import Outcome

COLUMNS = (
    "post_id", "tenant", "policy_set", "model", "model_digest", "model_alias", "outcome", "origin", "written_at",
    "source_topic", "source_partition", "source_offset", "problems", "findings",
)  # fmt: skip
MOST_TENANTS = 1_000  # that have cells of their own; the others share one
# By the outcomes before and after: whose threshold a flip crossed.
CROSSED = np.array(
    [[int(crossed(*map(Outcome, (max(one, 1), max(other, 1))))) for other in range(4)] for one in range(4)]
)


def is_threshold_change(old: PolicySet, new: PolicySet) -> str | None:
    """None: at most thresholds, severities, versions and certificates differ, so scores are enough.

    Else the reasons why scores are not enough.
    """
    before, after = ({policy.id: policy for policy in policies.policies} for policies in (old, new))
    reasons: list[str] = []
    for id in sorted(before.keys() | after.keys()):
        one, other = before.get(id), after.get(id)
        status = [policy.status.value if policy else "missing" for policy in (one, other)]
        if status[0] != status[1] and any(policy and policy.asked for policy in (one, other)):
            reasons.append(f"{id}: status: {status[0]} becomes {status[1]}")
        elif one and other and one.asked:
            reasons += [f"{id}: {key} differs: {why}" for key, why in _differences(one, other).items()]
    return "; ".join(reasons) or None


def _differences(old: Policy, new: Policy) -> dict[str, str]:
    """By key: why scores are not enough where it differs."""
    compared = {
        "the text": (old.prose != new.prose, "the model gives other scores"),
        "thresholds.mass": (old.thresholds.mass != new.thresholds.mass, "verdicts hold the strictest score alone"),
        "applies_to": (old.applies_to != new.applies_to, "verdicts do not say what other posts are about"),
        "on_error": (old.on_error != new.on_error, "verdicts on unread posts do not say which policies apply"),
    }
    return {key: why for key, (differs, why) in compared.items() if differs}


def redecide(
    old: PolicySet,
    new: PolicySet,
    source: Iterable[pa.RecordBatch],
    *,
    now: float | None = None,
    alias_removes: bool = False,
) -> Redecided:
    """Decides all verdicts of `source` again: batches with COLUMNS. Raises ConfigError for more than thresholds.

    now: when certificates must hold, in seconds since 1970. alias_removes: MODERATION_MODEL__ALIAS_MAY_REMOVE.
    """
    redeciding = Redeciding(old, new, now=now, alias_removes=alias_removes)
    for batch in source:
        redeciding.add(batch)
    return redeciding.result()


class _Model(NamedTuple):
    """What depends on the model that judged. Each has one member for each policy."""

    scores: Sequence[str]  # score digests
    valid: tuple[Flags, Flags]  # whether a certificate holds, before and after


@dataclass(slots=True)
class _Sums:
    verdicts: int = 0
    kept: int = 0
    left_out: Counter[Why] = field(default_factory=Counter)
    whole: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # by set, tenant and cell
    kept_whole: Counter[tuple[str, int]] = field(default_factory=Counter)  # by tenant and cell
    within: Counter[tuple[str, str]] = field(default_factory=Counter)  # findings in `whole`, by set and policy
    kept_within: Counter[str] = field(default_factory=Counter)  # findings in `kept_whole`, by policy
    asked: set[tuple[str, str]] = field(default_factory=set)  # digests of sets, and policies that they asked
    policies: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # by policy, tenant and cell
    policy_left_out: Counter[tuple[str, Why]] = field(default_factory=Counter)
    held: Counter[tuple[str, bool]] = field(default_factory=Counter)  # by policy; True: after
    models: Counter[tuple[str, str]] = field(default_factory=Counter)
    begins: datetime | None = None
    ends: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch, and what is computed of it. Arrays are by verdict, or by finding where it says so."""

    rows: pa.RecordBatch
    findings: Findings
    tenant: Numbers  # place in the list of tenants
    why: Numbers  # by finding: place in LEFT_OUT; 0: it is decided again; negative: of no policy of the old set
    before: Numbers  # by finding: outcomes
    after: Numbers


class Redeciding:
    """Decides batch after batch. It keeps sums and a few flips."""

    def __init__(
        self, old: PolicySet, new: PolicySet, *, now: float | None = None, alias_removes: bool = False
    ) -> None:
        """See `redecide`."""
        if reason := is_threshold_change(old, new):
            raise ConfigError(f"the scores of past verdicts do not say what this change does: {reason}")
        self._sets = old, new
        self._policies = [policy for policy in old.policies if policy.asked]
        after = {policy.id: policy for policy in new.policies}
        self._ids = [policy.id for policy in self._policies]
        self._rules = Rules.of(self._policies), Rules.of([after[id] for id in self._ids])
        self._counts = np.array([policy.counts for policy in self._policies])
        self._now = time.time() if now is None else now
        self._alias_removes = alias_removes
        self._models: dict[str, _Model] = {}
        self._tenants = [OTHERS]
        self._sums = _Sums()
        self._closest = {id: Closest() for id in self._ids}

    def add(self, rows: pa.RecordBatch) -> None:
        """Decides the verdicts of a batch with COLUMNS."""
        if not rows.num_rows:
            return
        findings = deciding.findings_of(rows, {id: place for place, id in enumerate(self._ids)})
        place = np.maximum(findings.policy, 0)
        digests = words(rows.column("model_digest"))
        models = [self._model(digest) for digest in digests]
        model = codes(rows.column("model_digest"), {digest: at for at, digest in enumerate(digests)})[findings.row]
        capped = np.asarray(rows.column("model_alias").fill_null(False)) & (not self._alias_removes)
        strictest = np.where(capped[findings.row], int(Outcome.REVIEW), int(Outcome.REMOVE))
        valid = [np.stack([each.valid[side] for each in models])[model, place] for side in (0, 1)]
        (before, held), (after, held_after) = (
            deciding.outcomes(rules, findings, strictest, each) for rules, each in zip(self._rules, valid, strict=True)
        )
        why = self._why(rows, findings, model, models)
        batch = _Batch(rows, findings, self._tenants_of(rows), why, before, after)
        for side, flags in ((False, held), (True, held_after)):
            for (policy,), count in _tally(findings.policy[flags & (why == 0)]):
                self._sums.held[self._ids[policy], side] += count
        self._add_findings(batch)
        self._add_verdicts(batch)
        self._add_flips(batch)

    def result(self) -> Redecided:
        """What came of all batches."""
        sums = self._sums
        complete = {*(policies.digest for policies in self._sets)}
        asked = defaultdict(set)
        for digest, id in sums.asked:
            asked[digest].add(id)
        complete |= {digest for digest, ids in asked.items() if ids.issuperset(self._ids)}
        left_out = Counter(sums.left_out)
        whole = Counter(sums.kept_whole)
        for (digest, tenant, cell), count in sums.whole.items():
            if digest in complete:
                whole[tenant, cell] += count
            else:
                left_out[Why.OTHER_SET] += count
        within = Counter(sums.kept_within)
        for (digest, id), count in sums.within.items():
            within[id] += count if digest in complete else 0
        by_policy = sums.policies
        return Redecided(
            verdicts=sums.verdicts,
            kept=sums.kept,
            left_out=left_out,
            whole=cells_of((cell, count) for (_, cell), count in whole.items()),
            tenants=grouped((tenant, cell, count) for (tenant, cell), count in whole.items()),
            policies={id: cells_of((c, n) for (of, _, c), n in by_policy.items() if of == id) for id in self._ids},
            apart={id: whole.total() - within[id] for id in self._ids},
            policy_tenants=grouped(((id, tenant), cell, count) for (id, tenant, cell), count in by_policy.items()),
            policy_left_out={
                id: {why: count for (of, why), count in sums.policy_left_out.items() if of == id} for id in self._ids
            },
            held={id: (sums.held[id, False], sums.held[id, True]) for id in self._ids},
            nearest={id: closest.nearest for id, closest in self._closest.items()},
            farthest={id: closest.farthest for id, closest in self._closest.items()},
            models=dict(sums.models),
            begins=sums.begins,
            ends=sums.ends,
        )

    def _model(self, digest: str) -> _Model:
        if digest not in self._models:
            old, new = (
                States(policies.policies, policies.certificates, digest).at(self._now).footings
                for policies in self._sets
            )
            scores = [old[id].score_digest for id in self._ids]
            before, after = (np.array([deciding.holds(footings[id]) for id in self._ids]) for footings in (old, new))
            self._models[digest] = _Model(scores, (before, after))
        return self._models[digest]

    def _why(self, rows: pa.RecordBatch, findings: Findings, model: Numbers, models: Sequence[_Model]) -> Numbers:
        """By finding: why it cannot be decided again, as in _Batch."""
        flat = rows.column("findings").flatten()
        known = {digest: place for place, digest in enumerate(words(flat.field("score_digest")))}
        score = codes(flat.field("score_digest"), known)
        expected = np.array([[known.get(digest, -2) for digest in each.scores] for each in models])
        place = np.maximum(findings.policy, 0)
        none = codes(flat.field("score_digest"), {"": 1}, 0) == 1  # an older version: nothing says whose score it is
        mass = flat.field("mass_threshold").to_numpy(zero_copy_only=False)
        why = np.where(mass != self._rules[0].mass[place], LEFT_OUT.index(Why.OTHER_MASS), 0)
        why = np.where(score != expected[model, place], LEFT_OUT.index(Why.OTHER_SCORE), why)
        why = np.where(none | ~findings.recorded, LEFT_OUT.index(Why.NOT_RECORDED), why)
        return np.where(findings.policy < 0, -1, why)

    def _tenants_of(self, rows: pa.RecordBatch) -> Numbers:
        new = [name for name in words(rows.column("tenant")) if name not in self._tenants]
        self._tenants += sorted(new)[: max(0, MOST_TENANTS - len(self._tenants))]
        return codes(rows.column("tenant"), {name: place for place, name in enumerate(self._tenants)}, 0)

    def _add_findings(self, batch: _Batch) -> None:
        findings, decided = batch.findings, batch.why == 0
        cell = (batch.before - 1) * len(Outcome) + batch.after - 1
        tenant = batch.tenant[findings.row]
        for (policy, of, place), count in _tally(findings.policy[decided], tenant[decided], cell[decided]):
            self._sums.policies[self._ids[policy], self._tenants[of], place] += count
        left = batch.why > 0
        for (policy, why), count in _tally(findings.policy[left], batch.why[left]):
            self._sums.policy_left_out[self._ids[policy], LEFT_OUT[why] or Why.NOT_RECORDED] += count

    def _add_verdicts(self, batch: _Batch) -> None:
        rows, findings, sums = batch.rows, batch.findings, self._sums
        sums.verdicts += rows.num_rows
        names, digests = _places(rows.column("model")), _places(rows.column("model_digest"))
        named = codes(rows.column("model"), names), codes(rows.column("model_digest"), digests)
        for (name, digest), count in _tally(*named):
            sums.models[[*names][name], [*digests][digest]] += count
        written = pc.min_max(rows.column("written_at")).as_py()
        sums.begins = min(filter(None, (sums.begins, written["min"])), default=None)
        sums.ends = max(filter(None, (sums.ends, written["max"])), default=None)

        own = findings.policy >= 0
        counts = self._counts[np.maximum(findings.policy, 0)] & own
        before, after = (
            deciding.strictest_of(rows.num_rows, findings.row, outcome, counts)
            for outcome in (batch.before, batch.after)
        )
        why = np.zeros(rows.num_rows, dtype=np.int64)
        np.maximum.at(why, findings.row[batch.why > 0], batch.why[batch.why > 0])
        empty = np.bincount(findings.row, minlength=rows.num_rows) == 0
        origin = codes(rows.column("origin"), {"NONE": 1, "HASH": 2, "HUMAN": 2}, 0)
        kept = (origin == 2) | (empty & (origin == 1))
        why = np.where(empty & ~kept, LEFT_OUT.index(Why.CUT), np.where(kept, 0, why))
        recorded = codes(rows.column("outcome"), deciding.OUTCOMES, int(Outcome.ALLOW))
        sums.kept += int(kept.sum())
        for (of, outcome), count in _tally(batch.tenant[kept], recorded[kept] - 1):
            sums.kept_whole[self._tenants[of], outcome * len(Outcome) + outcome] += count
        for (place,), count in _tally(why[why > 0]):
            sums.left_out[LEFT_OUT[place] or Why.CUT] += count

        sets = list(known := _places(rows.column("policy_set")))
        of_set = codes(rows.column("policy_set"), known)
        for (digest, policy), _ in _tally(of_set[findings.row[own]], findings.policy[own]):
            sums.asked.add((sets[digest], self._ids[policy]))
        decided = ~kept & (why == 0)
        inside = own & decided[findings.row]
        for (digest, policy), count in _tally(of_set[findings.row[inside]], findings.policy[inside]):
            sums.within[sets[digest], self._ids[policy]] += count
        for (policy,), count in _tally(findings.policy[own & kept[findings.row]]):
            sums.kept_within[self._ids[policy]] += count
        cell = (before - 1) * len(Outcome) + after - 1
        for (digest, of, place), count in _tally(of_set[decided], batch.tenant[decided], cell[decided]):
            sums.whole[sets[digest], self._tenants[of], place] += count

    def _add_flips(self, batch: _Batch) -> None:
        findings, rules = batch.findings, self._rules[1]
        flips = np.flatnonzero((batch.why == 0) & (batch.before != batch.after) & np.isfinite(findings.margin))
        policy, before, after = findings.policy[flips], batch.before[flips], batch.after[flips]
        removing = CROSSED[before, after] == Outcome.REMOVE
        threshold = np.where(removing, rules.remove[policy], rules.review[policy])
        distance = np.abs(findings.margin[flips] - np.array([logit(each) for each in threshold.tolist()]))
        near, far = (np.argsort(sign * distance, kind="stable") for sign in (1, -1))
        for place, id in enumerate(self._ids):
            chosen = {*near[policy[near] == place][:SHOWN].tolist(), *far[policy[far] == place][:SHOWN].tolist()}
            self._closest[id].add(self._flip(batch, int(flips[at]), float(threshold[at])) for at in chosen)

    def _flip(self, batch: _Batch, at: int, threshold: float) -> Flip:
        row = int(batch.findings.row[at])
        names = ("post_id", "tenant", "source_topic", "source_partition", "source_offset", "written_at")
        post_id, tenant, topic, partition, offset, written = (batch.rows.column(name)[row].as_py() for name in names)
        return Flip(
            post_id=post_id,
            tenant=tenant,
            policy=self._ids[int(batch.findings.policy[at])],
            before=Outcome(int(batch.before[at])),
            after=Outcome(int(batch.after[at])),
            probability=float(batch.findings.probability[at]),
            margin=float(batch.findings.margin[at]),
            threshold=threshold,
            source=f"{topic}/{partition}/{offset}",
            written_at=written,
        )


def _places(column: pa.Array) -> dict[str, int]:
    return {word: place for place, word in enumerate(words(column))}


def _tally(*columns: Numbers) -> Iterator[tuple[tuple[int, ...], int]]:
    """Each combination of values that the columns have in a row, none of them negative, and in how many rows."""
    if not len(columns[0]):
        return
    sizes = [int(column.max()) + 1 for column in columns]
    found, counts = np.unique(np.ravel_multi_index(columns, sizes), return_counts=True)
    for values, count in zip(zip(*np.unravel_index(found, sizes), strict=True), counts.tolist(), strict=True):
        yield tuple(map(int, values)), count
