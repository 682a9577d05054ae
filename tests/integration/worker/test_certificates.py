"""A certificate ends while a worker runs: from then on, what it removed goes to review. On a real Kafka."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from moderation.policies import Certificate
from moderation.policies.loading import load_policy
from tests.support.certificates import a_certificate, put
from tests.support.harness import Harness, a_value, running

SPAM = "violates:spam buy it"
LONGER = (4.0, 12.0, 40.0)  # seconds that a certificate holds: a machine may be too busy for the shorter ones


def a_post(number: int) -> tuple[int, bytes, bytes, Sequence[tuple[str, bytes]]]:
    return 0, b"author", a_value(number, text=f"{SPAM} {number}"), ()


def certified(policies: Path, seconds: float, *, required: bool = True) -> Certificate:
    """The policy has a certificate that holds for so long from now."""
    path = policies / "spam.yaml"
    text = path.read_text().replace("certificate: required\n", "")
    path.write_text(text + "certificate: required\n" * required)
    now = datetime.now(UTC)
    certificate = a_certificate(
        load_policy(path), issued_at=now - timedelta(days=1), expires_at=now + timedelta(seconds=seconds)
    )
    put(policies, certificate)
    return certificate


def told(verdict: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """Outcome, origin, decision state, and what the finding names."""
    (finding,) = verdict["findings"]
    names = verdict["outcome"], verdict["origin"]
    outcome, origin = (name.partition("_")[2] for name in names)
    return outcome, origin, verdict["decisionState"], finding["certificate"], finding["held"]


async def ended(certificate: Certificate, events: list[Any]) -> None:
    """Returns once the worker has said so."""
    async with asyncio.timeout(60):
        while not [each for each in events if each["event"] == "removals_held"]:  # noqa: ASYNC110  its log
            await asyncio.sleep(0.05)
    assert datetime.now(UTC) >= certificate.expires_at


async def test_a_certificate_that_ends_while_a_worker_runs(harness: Harness) -> None:
    """Known posts too, also those of another worker's time."""
    policies = harness.settings.policies
    for attempt, seconds in enumerate(LONGER):
        known, quiet = 10 * attempt + 1, 10 * attempt + 2
        certificate = certified(policies, seconds)
        with capture_logs() as events:
            async with running(harness):
                first = await judged(harness, known, quiet, known)
                if first[0][0] != "REMOVE" and attempt + 1 < len(LONGER):
                    continue  # it had ended before the worker was ready
                await ended(certificate, events)
                then = await judged(harness, known, known + 2)
        break
    holds, over = f"spam={certificate.id}", "spam=CERTIFICATE_EXPIRED"
    removed = "REMOVE", "MODEL", holds, certificate.id, ""
    assert first == [removed, removed, ("REMOVE", "CACHE", holds, certificate.id, "")]
    held = "CERTIFICATE_EXPIRED"
    assert then == [("REVIEW", "CACHE", over, "", held), ("REVIEW", "MODEL", over, "", held)]
    (line,) = [each for each in events if each["event"] == "removals_held"]
    assert (line["policy"], line["standing"], line["log_level"]) == ("spam", held, "warning")
    assert [each["certificate"] for each in events if each["event"] == "certificate_holds"] == [certificate.id]

    async with running(harness):  # restores `known` as it was held, and `quiet` as it was removed
        restored = await judged(harness, quiet, known, quiet)
    assert restored == [("REVIEW", "CACHE", over, "", held)] * 3

    renewed = certified(policies, 86_400)
    async with running(harness):
        again = await judged(harness, known, quiet)
    assert again == [("REMOVE", "CACHE", f"spam={renewed.id}", renewed.id, "")] * 2


async def judged(harness: Harness, *numbers: int) -> list[tuple[str, str, str, str, str]]:
    """What the worker says of these posts, one after the other. All are on one partition."""
    before = await harness.read(harness.topics[1], 0)
    for number in numbers:
        await harness.produce(a_post(number))
    verdicts = await harness.verdicts(len(before) + len(numbers))
    return [told(verdict) for verdict in verdicts[len(before) :]]


async def test_a_certificate_of_another_score_or_threshold_removes_nothing(harness: Harness) -> None:
    policies = harness.settings.policies
    certified(policies, 86_400)
    path = policies / "spam.yaml"
    sound = path.read_text()
    for text, standing in (
        (sound.replace("advertises", "promotes"), "CERTIFICATE_OF_ANOTHER_SCORE"),
        (sound.replace("0.9", "0.95"), "CERTIFICATE_OF_ANOTHER_THRESHOLD"),
    ):
        path.write_text(text)
        async with running(harness):
            (said,) = await judged(harness, 1)
        assert said == ("REVIEW", "MODEL", f"spam={standing}", "", standing)


async def test_where_none_is_required_the_end_of_a_certificate_changes_no_outcome(harness: Harness) -> None:
    certificate = certified(harness.settings.policies, -1, required=False)
    with capture_logs() as events:
        async with running(harness):
            said = await judged(harness, 1, 1)
    over = "spam=CERTIFICATE_EXPIRED"
    assert said == [("REMOVE", "MODEL", over, "", ""), ("REMOVE", "CACHE", over, "", "")]
    (line,) = [each for each in events if each["event"] == "certificate_void"]
    assert (line["certificate"], line["standing"]) == (certificate.id, "CERTIFICATE_EXPIRED")


async def test_a_value_that_is_no_post_is_not_removed_without_the_certificate(harness: Harness) -> None:
    path = harness.settings.policies / "spam.yaml"
    path.write_text(f"{path.read_text()}on_error: remove\n")
    certified(harness.settings.policies, -1)
    async with running(harness):
        await harness.produce((0, b"broken", b"{", ()))
        (verdict,) = await harness.verdicts(1)
    assert (verdict["outcome"], verdict["status"]) == ("OUTCOME_REVIEW", "STATUS_UNDETERMINED")
    assert verdict["decisionState"] == "spam=CERTIFICATE_EXPIRED"
