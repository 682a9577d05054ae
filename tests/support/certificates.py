"""Certificates for tests: each field is plausible, and a test names the one that it is about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from moderation.models.fake import Fake
from moderation.policies import Certificate, Policy, score_digest
from moderation.policies.certificates import SUFFIX, written

ISSUED = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
DAYS = timedelta(days=1)


def a_certificate(policy: Policy, **fields: Any) -> Certificate:
    """A certificate of the policy as it is, with the fake model, for some centuries."""
    model = fields.pop("model_digest", Fake().info.digest)
    defaults: dict[str, Any] = {
        "policy": policy.id,
        "policy_version": policy.version,
        "score_digest": score_digest(policy, model),
        "model": {"name": "fake", "digest": model},
        "threshold": policy.thresholds.remove,
        "mass": policy.thresholds.mass,
        "precision": {
            "at_least": 0.95,
            "confidence": 0.95,
            "design": "fixed",
            "n": 59,
            "k": 0,
            "bound": 0.9505,
        },
        "sample": {
            "source": "posts",
            "begins": ISSUED - 30 * DAYS,
            "ends": ISSUED - DAYS,
            "population": 4_000,
            "seed": 1,
        },
        "labels_digest": "1" * 64,
        "rows_digest": "2" * 64,
        "labellers": ("ada", "ben"),
        "issued_at": ISSUED,
        "expires_at": ISSUED + 365_000 * DAYS,
    }
    return Certificate.model_validate(defaults | fields)


def put(folder: Path, certificate: Certificate) -> Path:
    """Writes its file beside the policy."""
    path = folder / f"{certificate.policy}{SUFFIX}"
    path.write_text(written(certificate))
    return path
