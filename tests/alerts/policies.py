"""Policies that were edited, rollouts that stop half way, and models that give no score."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta

from moderation.policies.loading import load_policy
from tests.alerts.site import Site
from tests.alerts.situation import Alert, situation
from tests.support.certificates import a_certificate, put


@situation(
    Alert("ModerationPolicyFlagsMost", {"policy": "spam", "version": "2"}),
    caused="a policy that allowed posts is edited, so that it removes every post",
    silent="silent: no rule read the outcomes",
)
async def policy_removes_everything(site: Site) -> AsyncGenerator[None, None]:
    await site.begin()
    await site.during(site.stream(10))
    await asyncio.sleep(110)  # a day before, seen from now: as short as the window allows
    await site.stop("worker-0")
    site.policy(review=0.0, remove=0.00001, version=2)
    site.start()
    await site.ready()
    site.caused()
    yield
    await site.stop("worker-0")
    site.policy(version=3)
    site.start()


@situation(
    Alert("ModerationPolicyFlagsNone", {"policy": "spam"}),
    caused="a policy that flagged every second post is edited, so that it flags none",
    silent="silent: no rule read the outcomes",
    limit_s=400,
)
async def policy_flags_nothing(site: Site) -> AsyncGenerator[None, None]:
    await site.begin()

    def every_second(number: int) -> tuple[bytes, bytes]:
        return site.a_post("violates:spam " * (number % 2) + f"number {number}")

    await site.during(site.stream(10, every_second))
    await asyncio.sleep(60)
    await site.stop("worker-0")
    site.policy(review=0.9999, remove=0.99999, version=2)
    site.start()
    await site.ready()
    site.caused()
    yield
    await site.stop("worker-0")
    site.policy(version=3)
    site.start()


@situation(
    Alert("ModerationPoliciesDiffer"),
    caused="of two workers of one installation one has another policy set; other installations have sets of their own",
    top="2 policy sets are in use",
    silent="fired for two healthy installations",
)
async def rollout_half_way(site: Site) -> AsyncGenerator[None, None]:
    await site.begin()
    other = site.policy(version=2, folder="new")
    site.start("worker", 1, POLICIES=str(other))
    await site.ready()
    site.caused()
    yield
    await site.stop("worker-1")
    site.start("worker", 1)


@situation(
    Alert("ModerationUndetermined", {"policy": "spam", "reason": "NO_ANSWER"}),
    caused="to every fifth post the model says neither Yes nor No",
)
async def model_says_nothing(site: Site) -> AsyncGenerator[None, None]:
    await site.begin()

    def some_mute(number: int) -> tuple[bytes, bytes]:
        return site.a_post(f"{'mute:spam' if number % 5 == 0 else 'plain'} number {number}")

    site.caused()
    async with site.meanwhile(site.stream(10, some_mute)):
        yield
    await site.during(site.stream(20))


def _certified(site: Site, seconds: float) -> None:
    """The site's policy requires a certificate, and has one for so long."""
    path = site.policy() / "spam.yaml"
    path.write_text(f"{path.read_text()}certificate: required\n")
    now = datetime.now(UTC)
    expires = now + timedelta(seconds=seconds)
    put(path.parent, a_certificate(load_policy(path), issued_at=now - timedelta(days=1), expires_at=expires))


@situation(
    Alert("ModerationPolicyUncertified", {"policy": "spam", "standing": "CERTIFICATE_EXPIRED"}),
    caused="the certificate of a policy that requires one ends while the worker runs",
    top="policy spam removes nothing: it requires a certificate, and none holds (CERTIFICATE_EXPIRED)",
)
async def certificate_ends(site: Site) -> AsyncGenerator[None, None]:
    _certified(site, 90)
    ends = datetime.now(UTC) + timedelta(seconds=90)
    await site.begin()
    await site.during(site.stream(10, lambda number: site.a_post(f"violates:spam number {number}")))
    await asyncio.sleep(max(0.0, (ends - datetime.now(UTC)).total_seconds()))
    site.caused()
    yield
    await site.until(1, "worker-0", "moderation_findings_held_total", policy="spam")
    await site.stop("worker-0")
    _certified(site, 365 * 86_400)
    site.start()


@situation(
    Alert("ModerationPolicyCertificateExpires", {"policy": "spam"}),
    caused="the certificate of a policy ends within the time that a new one takes",
    top="the certificate of policy spam expires in",
    limit_s=400,
)
async def certificate_ends_soon(site: Site) -> AsyncGenerator[None, None]:
    _certified(site, 7 * 86_400 / site.factor)
    await site.begin()
    site.caused()
    yield
    await site.stop("worker-0")
    _certified(site, 365 * 86_400)
    site.start()
