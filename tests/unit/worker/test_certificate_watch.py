"""Which certificates hold is said once, and again when it changes: in the log and in the metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.models.fake import Fake
from moderation.observability import metrics
from moderation.policies import PolicySet, State, States
from moderation.types import Standing
from moderation.worker.certificate_watch import CertificateWatch
from tests.support.builders import a_finding, a_policy, a_verdict
from tests.support.certificates import ISSUED, a_certificate

DAY = 86_400.0
LAKES = a_policy("lakes", certificate="required")
PONDS = a_policy("ponds")  # has one without need
SEAS = a_policy("seas", certificate="required", status="shadow")  # lacks it
RAIN = a_policy("rain")
OLD = a_policy("old", certificate="required", status="retired")  # nobody is asked about it


@pytest.fixture(autouse=True)
def _clear() -> Iterator[None]:
    yield
    metrics.CERTIFICATE.clear()
    metrics.POLICY_CERTIFICATE_EXPIRY.clear()


class Days:
    """A worker's decision state, some days after the certificates were issued."""

    def __init__(self, policies: PolicySet) -> None:
        self.passed = 1.0
        self._states = States(policies.policies, policies.certificates, Fake().info.digest)

    def __call__(self) -> State:
        return self._states.at(ISSUED.timestamp() + self.passed * DAY)


def rows() -> set[tuple[str, ...]]:
    (family,) = [family for family in REGISTRY.collect() if family.name == "moderation_policy_certificate_info"]
    names = ("policy", "mode", "required", "standing")
    return {tuple(sample.labels[name] for name in names) for sample in family.samples}


def test_each_change_is_said_once_and_shown() -> None:
    held = {
        "lakes": a_certificate(LAKES, expires_at=ISSUED + timedelta(days=10)),
        "ponds": a_certificate(PONDS, expires_at=ISSUED + timedelta(days=20)),
    }
    policies = replace(PolicySet.of([LAKES, PONDS, SEAS, RAIN, OLD]), certificates=held)
    days = Days(policies)
    watch = CertificateWatch(policies, days)
    said: list[list[tuple[str, ...]]] = []
    for passed in (1.0, 9.9, 10.0, 10.1, 25.0):
        days.passed = passed
        with capture_logs() as events:
            watch.look()
        said.append([(each["log_level"], each["event"], each["policy"], each.get("standing", "")) for each in events])
        if passed == 1.0:
            assert events[0]["expires"] == "2026-11-11T12:00:00+00:00"
    assert said == [
        [
            ("info", "certificate_holds", "lakes", ""),
            ("info", "certificate_holds", "ponds", ""),
            ("warning", "removals_held", "seas", "CERTIFICATE_MISSING"),
        ],
        [],
        [("warning", "removals_held", "lakes", "CERTIFICATE_EXPIRED")],
        [],
        [("warning", "certificate_void", "ponds", "CERTIFICATE_EXPIRED")],
    ]
    assert rows() == {
        ("lakes", "live", "yes", "CERTIFICATE_EXPIRED"),
        ("ponds", "live", "no", "CERTIFICATE_EXPIRED"),
        ("seas", "shadow", "yes", "CERTIFICATE_MISSING"),
    }
    expiry = "moderation_policy_certificate_expiry_timestamp_seconds"
    assert REGISTRY.get_sample_value(expiry, {"policy": "lakes", "mode": "live"}) == ISSUED.timestamp() + 10 * DAY
    assert REGISTRY.get_sample_value(expiry, {"policy": "seas", "mode": "shadow"}) is None


def test_a_set_without_certificates_says_nothing() -> None:
    policies = PolicySet.of([PONDS, RAIN])
    with capture_logs() as events:
        CertificateWatch(policies, Days(policies)).look()
    assert not events
    assert rows() == set()


def test_a_finding_that_is_held_is_counted_by_policy_and_standing() -> None:
    labels = {"policy": "held-lakes", "standing": "CERTIFICATE_EXPIRED"}
    found = [a_finding("held-lakes", held=Standing.EXPIRED), a_finding("held-seas")]
    metrics.count_verdict(a_verdict(findings=tuple(found)), 0.0)
    assert REGISTRY.get_sample_value("moderation_findings_held_total", labels) == 1
    (family,) = [family for family in REGISTRY.collect() if family.name == "moderation_findings_held"]
    assert not [sample for sample in family.samples if sample.labels["policy"] == "held-seas"]
