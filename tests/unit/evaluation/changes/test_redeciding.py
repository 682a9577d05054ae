"""Past verdicts are decided again exactly as a worker would have decided them with other thresholds."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.changes.changes import Pair, change_of
from moderation.evaluation.changes.redecided import OTHERS, Why
from moderation.evaluation.changes.redeciding import Redeciding, is_threshold_change, redecide
from moderation.evaluation.changes.strata import Stratum
from moderation.evaluation.traffic.rows import of_verdicts
from moderation.policies import PolicySet, Said, decide, decided
from moderation.types import Origin, Outcome, Reason, Status, Verdict
from tests.support.builders import a_finding, a_policy
from tests.support.past_traffic import MODEL, NOW, Past, a_certificate, a_set, changed, past, rows_of, state_of

SEEDS = [20_261_129, 7, 99]


def a_set_of(on_error: str, media: list[str], *, certified: bool) -> PolicySet:
    common: dict[str, Any] = {"on_error": on_error, "applies_to": {"media": media}}
    held = a_policy("held", certificate="required", **common)
    policies = [
        a_policy("lakes", **common),
        held,
        a_policy("shadow", status="shadow", severity="critical", **common),
        a_policy("draft", status="draft"),
    ]
    return a_set(*policies, certificates={"held": a_certificate(held)} if certified else {})


def outcomes(
    policies: PolicySet, each: Past, strictest: Outcome, now: float = NOW
) -> tuple[dict[str, Outcome], Outcome]:
    """What a worker with this set decides: by policy, and as a whole."""
    state = state_of(policies)
    findings = [
        decided(policy, Said.of(policy, each.answers[policy.id]), strictest, each.verdict.problems, footing)
        for policy in policies.policies
        if policy.id in each.answers
        for footing in [state.footings[policy.id]]
    ]
    return {finding.policy_id: finding.outcome for finding in findings}, decide(findings).outcome


@pytest.mark.parametrize("strictest", [Outcome.REMOVE, Outcome.REVIEW])
@pytest.mark.parametrize("certified", [True, False])
@pytest.mark.parametrize("media", [["text"], ["image"], ["text", "image"]])
@pytest.mark.parametrize("on_error", ["allow", "review", "remove"])
def test_columns_decide_as_the_worker_does(
    on_error: str, media: list[str], certified: bool, strictest: Outcome
) -> None:
    old = a_set_of(on_error, media, certified=certified)
    new = changed(old, "lakes", version=2, thresholds={"review": 0.3, "remove": 0.7})
    new = changed(new, "shadow", version=2, thresholds={"review": 0.45, "remove": 0.95})
    seed = SEEDS[len(media) % len(SEEDS)]
    print(f"seed {seed}")
    generator = random.Random(seed)
    verdicts = [past(generator, old, number, strictest) for number in range(200)]
    whole: Counter[tuple[Outcome, Outcome]] = Counter()
    cells: dict[str, Counter[tuple[Outcome, Outcome]]] = defaultdict(Counter)
    tenants: dict[str, Counter[tuple[Outcome, Outcome]]] = defaultdict(Counter)
    for each in verdicts:
        (before, one), (after, other) = (outcomes(policies, each, strictest) for policies in (old, new))
        assert one is each.verdict.outcome, "the test's own worker"
        for id in before:
            cells[id][before[id], after[id]] += 1
        whole[one, other] += 1
        tenants[each.verdict.tenant][one, other] += 1

    found = redecide(old, new, rows_of([each.verdict for each in verdicts]), now=NOW)

    assert found.whole.counts == whole
    assert {id: each.counts for id, each in found.policies.items()} == cells
    assert found.apart == {id: 200 - sum(counts.values()) for id, counts in cells.items()}
    assert {tenant: each.counts for tenant, each in found.tenants.items()} == tenants
    assert (found.verdicts, found.left_out) == (200, {})
    assert found.models == {("fake", MODEL.digest): 200}
    if strictest is Outcome.REMOVE:
        assert whole[Outcome.REVIEW, Outcome.REMOVE] or whole[Outcome.ALLOW, Outcome.REVIEW], "something flips"


def test_a_certificate_of_another_threshold_holds_no_more() -> None:
    old = a_set_of("review", ["text", "image"], certified=True)
    new = changed(old, "held", thresholds={"review": 0.5, "remove": 0.85})
    generator = random.Random(3)
    verdicts = [past(generator, old, number) for number in range(400)]
    removed = sum(outcomes(old, each, Outcome.REMOVE)[0].get("held") is Outcome.REMOVE for each in verdicts)
    found = redecide(old, new, rows_of([each.verdict for each in verdicts]), now=NOW)
    before, after = found.held["held"]
    assert before == 0
    assert after >= removed > 0
    assert not any(after is Outcome.REMOVE for _, after in found.policies["held"].counts)
    late = redecide(old, old, rows_of([each.verdict for each in verdicts]), now=NOW + 20 * 86_400)
    assert late.held["held"] == (removed, removed), "both sets are as they would be now"


def test_an_alias_removes_only_where_the_operator_allows_it() -> None:
    old = a_set(a_policy("lakes"))
    generator = random.Random(5)
    verdicts = rows_of([past(generator, old, number, Outcome.REVIEW).verdict for number in range(300)])
    capped = redecide(old, old, verdicts, now=NOW)
    allowed = redecide(old, old, verdicts, now=NOW, alias_removes=True)
    assert capped.whole.share(True, Outcome.REMOVE) == 0
    assert allowed.whole.share(True, Outcome.REMOVE) > 0


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"thresholds": {"review": 0.5, "remove": 0.9, "mass": 0.4}}, "lakes: thresholds.mass differs"),
        ({"applies_to": {"media": ["text"]}}, "lakes: applies_to differs"),
        ({"status": "shadow"}, "lakes: status: live becomes shadow"),
        ({"status": "retired"}, "lakes: status: live becomes retired"),
        ({"question": "Is there a pond?"}, "lakes: the text differs"),
        ({"title": "Ponds"}, "lakes: the text differs"),
        ({"on_error": "remove"}, "lakes: on_error differs"),
    ],
)
def test_a_change_of_more_than_thresholds_is_refused_with_the_reason(fields: dict[str, Any], word: str) -> None:
    old = a_set(a_policy("lakes"), a_policy("other"))
    new = changed(old, "lakes", **fields)
    assert word in (is_threshold_change(old, new) or "")
    with pytest.raises(ConfigError, match=word):
        redecide(old, new, [])


def test_thresholds_severity_version_certificates_and_drafts_may_differ() -> None:
    old = a_set(a_policy("lakes"), a_policy("draft", status="draft"))
    new = changed(old, "lakes", version=9, severity="high", certificate="required", gate={"wrong": 3})
    new = changed(new, "lakes", thresholds={"review": 0.1, "remove": 0.2})
    assert is_threshold_change(old, changed(new, "draft", question="Anything?")) is None
    assert "other: status: missing becomes live" in str(
        is_threshold_change(old, a_set(*old.policies, a_policy("other")))
    )
    assert "lakes: status: live becomes missing" in str(is_threshold_change(old, a_set(a_policy("other"))))


def test_what_cannot_be_decided_again_is_counted_with_the_reason() -> None:
    old = a_set(a_policy("lakes"))
    new = changed(old, "lakes", thresholds={"review": 0.3, "remove": 0.7})
    model = past(random.Random(1), old, 1).verdict
    (finding,) = next(
        each.verdict.findings
        for number in range(99)
        if len((each := past(random.Random(number), old, number)).verdict.findings) == 1
        and each.verdict.findings[0].score
        and each.verdict.findings[0].reason is None
    )
    model = replace(model, origin=Origin.MODEL, problems=(), reason=None)
    old_version = replace(finding, answered=None, windows=2)
    verdicts = [
        replace(model, post_id="again", findings=(finding,)),
        replace(model, post_id="older", findings=(old_version,)),
        replace(model, post_id="oldest", findings=(replace(finding, answered=None, score_digest=""),)),
        replace(model, post_id="words", findings=(replace(finding, score_digest="d" * 64),)),
        replace(model, post_id="mass", findings=(replace(finding, thresholds=a_finding().thresholds),)),
        replace(model, post_id="cut", findings=()),
        replace(model, post_id="unread", findings=(), origin=Origin.NONE, outcome=Outcome.REVIEW,
                reason=Reason.NOT_DECODABLE, status=Status.UNDETERMINED),
        replace(model, post_id="person", findings=(old_version,), origin=Origin.HUMAN, outcome=Outcome.REMOVE),
        replace(model, post_id="set", findings=(a_finding("pond"),), policy_set_digest="e" * 64),
    ]  # fmt: skip
    found = redecide(old, new, rows_of(verdicts), now=NOW)
    assert found.left_out == {
        Why.NOT_RECORDED: 2,
        Why.OTHER_SCORE: 1,
        Why.OTHER_MASS: 1,
        Why.CUT: 1,
        Why.OTHER_SET: 1,
    }
    assert found.kept == 2
    assert found.apart == {"lakes": 1}, "the post that no policy was asked about"
    assert found.whole.total == 3
    assert found.whole.counts[Outcome.REMOVE, Outcome.REMOVE] >= 1
    assert found.policy_left_out == {"lakes": {Why.NOT_RECORDED: 3, Why.OTHER_SCORE: 1, Why.OTHER_MASS: 1}}
    assert sum(found.left_out.values()) + found.whole.total == found.verdicts == len(verdicts)


def test_a_set_that_is_known_to_have_asked_all_policies_counts_whole() -> None:
    one, two = a_policy("lakes"), a_policy("ponds")
    older = a_set(one, a_policy("ponds", severity="high"))
    old = a_set(one, two)
    generator = random.Random(4)
    verdicts = [past(generator, older, number).verdict for number in range(60)]
    found = redecide(old, old, rows_of(verdicts), now=NOW)
    assert (found.whole.total, found.left_out) == (60, {})


def test_flips_are_shown_nearest_and_farthest_first() -> None:
    old = a_set(a_policy("lakes"))
    new = changed(old, "lakes", thresholds={"review": 0.2, "remove": 0.7})
    generator = random.Random(11)
    verdicts = [past(generator, old, number).verdict for number in range(500)]
    found = redecide(old, new, rows_of(verdicts, batch=90), now=NOW)
    flips = found.policies["lakes"].flips
    nearest, farthest = found.nearest["lakes"], found.farthest["lakes"]
    distances = [flip.distance for flip in (*nearest, *reversed(farthest))]
    assert flips > len(nearest) == len(farthest) == 10
    assert distances == sorted(distances)
    by_id = {verdict.post_id: verdict for verdict in verdicts}
    for flip in (*nearest, *farthest):
        score = by_id[flip.post_id].findings[0].score
        assert score is not None
        assert flip.probability == score.probability
        assert flip.threshold == (0.7 if Outcome.REMOVE in (flip.before, flip.after) else 0.2)
        assert flip.distance == pytest.approx(abs(score.margin - math.log(flip.threshold / (1 - flip.threshold))))
        assert flip.before is by_id[flip.post_id].findings[0].outcome
    whole = redecide(old, new, rows_of(verdicts, batch=500), now=NOW)
    assert (whole.nearest, whole.farthest) == (found.nearest, found.farthest), "whatever the batches are"


def test_past_verdicts_and_judged_posts_name_the_same_distance() -> None:
    """A flip that falls from REMOVE to ALLOW fell below `review`, whatever its scores come from."""
    old, new = a_set(a_policy("lakes")), a_set(a_policy("lakes", thresholds={"review": 0.97, "remove": 0.98}))
    generator = random.Random(13)
    verdicts = [past(generator, old, number).verdict for number in range(300)]
    verdicts = [each for each in verdicts if len(each.findings) == 1 and not each.problems]
    found = redecide(old, new, rows_of(verdicts), now=NOW)
    by_id = {verdict.post_id: verdict for verdict in verdicts}
    assert (Outcome.REMOVE, Outcome.ALLOW) in {(flip.before, flip.after) for flip in found.nearest["lakes"]}
    for flip in found.nearest["lakes"]:
        before = by_id[flip.post_id]
        finding = replace(before.findings[0], outcome=flip.after)
        pair = Pair(flip.post_id, 0, {}, before, replace(before, outcome=flip.after, findings=(finding,)))
        (judged,) = change_of([pair], [Stratum("all posts", 1, 1)], old.policies, new.policies).effects[1].nearest
        assert judged.beyond == pytest.approx(flip.distance)


async def test_verdicts_that_are_at_hand_are_rows_too() -> None:
    old = a_set(a_policy("lakes"))
    new = changed(old, "lakes", thresholds={"review": 0.2, "remove": 0.7})
    generator = random.Random(12)
    verdicts = [past(generator, old, number).verdict for number in range(2_100)]

    async def there() -> AsyncIterator[Verdict]:
        for verdict in verdicts:
            yield verdict

    redeciding = Redeciding(old, new, now=NOW)
    async for batch in of_verdicts(there()):
        redeciding.add(batch)
    assert redeciding.result() == redecide(old, new, rows_of(verdicts), now=NOW)


def test_many_tenants_share_cells() -> None:
    old = a_set(a_policy("lakes"))
    verdict = past(random.Random(2), old, 2).verdict
    found = redecide(old, old, rows_of([replace(verdict, tenant=f"t{number}") for number in range(1_500)]), now=NOW)
    assert len(found.tenants) == 1_000
    assert found.tenants[OTHERS].total == 501
    assert sum(each.total for each in found.tenants.values()) == found.whole.total == 1_500
    assert found.begins == found.ends == datetime.fromtimestamp(NOW + 0.002, UTC)
