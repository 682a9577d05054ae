"""What is counted, and that the fast metrics write what prometheus_client's own would."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from moderation.observability import metrics
from moderation.observability.fast_metrics import FastCounter, FastHistogram
from moderation.types import Origin, Outcome, Problem, Reason, Status, Timings
from tests.support.builders import a_finding, a_verdict

BOUNDS = (0.1, 0.5, 1, 2.5)


def text(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if "_created" not in line]


@given(st.lists(st.tuples(st.sampled_from(["a", 'b"\\\n']), st.floats(0, 5) | st.sampled_from(BOUNDS)), max_size=30))
def test_a_fast_histogram_writes_what_a_histogram_does(values: list[tuple[str, float]]) -> None:
    slow_registry, fast_registry = CollectorRegistry(), CollectorRegistry()
    slow = Histogram("some_seconds", "Some text", ["phase"], buckets=BOUNDS, registry=slow_registry)
    fast = FastHistogram("some_seconds", "Some text", BOUNDS, ["phase"], registry=fast_registry)
    for label, value in values:
        slow.labels(label).observe(value)
        fast.series(label).add(value)
    assert text(fast_registry) == text(slow_registry)


@given(st.lists(st.tuples(st.sampled_from(Outcome), st.sampled_from(["a", "b"])), max_size=30))
def test_a_fast_counter_writes_what_a_counter_does(values: list[tuple[Outcome, str]]) -> None:
    slow_registry, fast_registry = CollectorRegistry(), CollectorRegistry()
    slow = Counter("some", "Some text", ["outcome", "policy"], registry=slow_registry)
    fast = FastCounter("some", "Some text", ["outcome", "policy"], registry=fast_registry)
    for outcome, policy in values:
        slow.labels(outcome.name.lower(), policy).inc()
        fast.counts[outcome, policy] += 1
    assert text(fast_registry) == text(slow_registry)


def test_names_follow_the_conventions() -> None:
    kinds = FastCounter | FastHistogram | MetricWrapperBase
    collectors = [collector for collector in REGISTRY._collector_to_names if isinstance(collector, kinds)]
    assert len(collectors) > 40
    for collector in collectors:
        if isinstance(collector, FastCounter | FastHistogram):
            name, labels = collector.name, collector.labels
        else:
            name, labels = collector._name, collector._labelnames
        assert re.fullmatch(r"moderation_[a-z_]+", name)
        assert not re.search(r"(_(ms|milliseconds|kb|mb|percent)(_|$))|_total$", name)  # counters get their _total
        assert not {"post", "post_id", "id", "tenant", "offset", "trace_id"} & set(labels)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_published_verdict_is_counted_once_in_each_family() -> None:
    model = "test_a_published_verdict"  # no other test counts under it
    verdict = a_verdict(
        outcome=Outcome.REMOVE,
        status=Status.DEGRADED,
        model=a_verdict().model.__class__(model, "", ""),
        findings=(
            a_finding("t-spam", outcome=Outcome.REMOVE),
            a_finding("t-guns", outcome=Outcome.REVIEW, reason=Reason.NO_ANSWER),
            a_finding("t-new", counts=False),
        ),
        timings=Timings(queue=3.0, encode=0.02, batch_wait=0.03, model=0.2),
    )
    before = {phase: value("moderation_phase_seconds_count", phase=phase) for phase in ("queue", "decode", "model")}
    metrics.count_verdict(verdict, 0.004)
    assert value("moderation_verdicts_total", outcome="remove", status="degraded", model=model) == 1
    assert value("moderation_findings_total", policy="t-spam", version="1", outcome="remove", mode="live") == 1
    assert value("moderation_findings_total", policy="t-new", version="1", outcome="allow", mode="shadow") == 1
    assert value("moderation_findings_undetermined_total", policy="t-guns", reason="NO_ANSWER") == 1
    after = {phase: value("moderation_phase_seconds_count", phase=phase) for phase in before}
    assert after == {"queue": before["queue"] + 1, "decode": before["decode"], "model": before["model"] + 1}


def test_a_post_that_was_not_judged_spent_nothing_in_the_model() -> None:
    letters = value("moderation_dead_letters_total", reason="IMAGE_CORRUPT")
    judged = value("moderation_phase_seconds_count", phase="model")
    cached = value("moderation_verdict_origins_total", origin="cache")
    problems = (Problem(Reason.IMAGE_CORRUPT, "images[0]"),)
    verdict = a_verdict(status=Status.UNDETERMINED, origin=Origin.NONE, reason=Reason.IMAGE_CORRUPT, problems=problems)
    metrics.count_verdict(verdict, 0.004)
    metrics.count_verdict(a_verdict(origin=Origin.CACHE), 0.004)
    assert value("moderation_dead_letters_total", reason="IMAGE_CORRUPT") == letters + 1
    assert value("moderation_verdict_origins_total", origin="cache") == cached + 1
    assert value("moderation_phase_seconds_count", phase="model") == judged


def test_a_post_with_unread_parts_counts_once_for_each_reason_and_has_one_dead_letter() -> None:
    reasons = Reason.TEXT_TOO_LONG, Reason.IMAGE_NOT_FOUND, Reason.IMAGE_NOT_FOUND, Reason.IMAGE_UNSUPPORTED

    def counts() -> list[float]:
        names = "moderation_posts_unread_total", "moderation_dead_letters_total"
        return [value(name, reason=reason) for name in names for reason in sorted(set(reasons))]

    before = counts()
    problems = tuple(Problem(reason, f"images[{index}]") for index, reason in enumerate(reasons))
    metrics.count_verdict(a_verdict(status=Status.DEGRADED, problems=problems), 0.004)
    assert [after - earlier for after, earlier in zip(counts(), before, strict=True)] == [1, 1, 1, 1, 0, 0]
