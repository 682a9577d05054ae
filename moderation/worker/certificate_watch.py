"""Looks which certificates hold, and says so when it changes: in the log and in the metrics.

A certificate ends while a worker runs. From then on, what its policy would remove may go to review instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC

import structlog

from moderation.observability import metrics
from moderation.policies import Certificate, Policy, PolicySet, State
from moderation.types import Standing

LOOK_S = 1.0  # between two looks; one costs nothing as long as nothing changes

log = structlog.get_logger()


class CertificateWatch:
    """Follows the decision state. A policy that has or requires a certificate has an event and metrics."""

    def __init__(self, policies: PolicySet, state: Callable[[], State]) -> None:
        held = policies.certificates
        asked = [policy for policy in policies.policies if policy.asked]
        self._watched = [(policy, held.get(policy.id)) for policy in asked if policy.certificate or policy.id in held]
        self._state = state
        self._shown: dict[str, Standing] = {}  # by id of policy

    async def run(self) -> None:
        """Looks every LOOK_S, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Logs each policy whose standing is new, and shows how all stand."""
        footings = self._state().footings
        now = {policy.id: footings[policy.id].standing for policy, _ in self._watched}
        if now == self._shown:
            return
        metrics.CERTIFICATE.clear()
        metrics.POLICY_CERTIFICATE_EXPIRY.clear()
        for policy, certificate in self._watched:
            standing, mode = now[policy.id], "live" if policy.counts else "shadow"
            required = "yes" if policy.certificate else "no"
            name = certificate.id if certificate else ""
            metrics.CERTIFICATE.labels(policy.id, mode, required, standing, name).set(1)
            if certificate:
                metrics.POLICY_CERTIFICATE_EXPIRY.labels(policy.id, mode).set(certificate.expires_at.timestamp())
            if self._shown.get(policy.id) is not standing:
                _log(policy, certificate, standing)
        self._shown = now


def _log(policy: Policy, certificate: Certificate | None, standing: Standing) -> None:
    name = certificate.id if certificate else ""
    expires = certificate.expires_at.astimezone(UTC).isoformat(timespec="seconds") if certificate else ""
    if standing is Standing.VALID:
        log.info("certificate_holds", policy=policy.id, certificate=name, expires=expires)
    elif policy.certificate:
        log.warning("removals_held", policy=policy.id, certificate=name, expires=expires, standing=standing)
    else:
        log.warning("certificate_void", policy=policy.id, certificate=name, expires=expires, standing=standing)
