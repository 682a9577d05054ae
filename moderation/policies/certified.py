"""Which policies of a folder stand on a certificate, and why the others do not, as far as a folder can say.

It cannot say which model judges: a certificate names its own. Whether it holds with the model of a worker, the worker
says: in its log, its metrics, and each finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from moderation.policies.certificates import SUFFIX, Certificate, days_left, line_of, read_file, score_digest
from moderation.policies.loading import Read
from moderation.policies.mistakes import Kind, Mistake, place
from moderation.policies.schema import Policy, PolicyStatus
from moderation.types import Standing

SOON_DAYS = 14.0  # before its end: a sample must be drawn and labelled; the alert has the same number
HELD = "REMOVE becomes REVIEW"
AGAIN = "`moderation policies certify`"


@dataclass(frozen=True, slots=True)
class Basis:
    """What the threshold `remove` of a policy stands on, with the model that its certificate names."""

    standing: Standing
    certificate: Certificate | None = None


def basis(policy: Policy, certificate: Certificate | None, now: datetime) -> Basis:
    """Whether a certificate holds for a policy as it is now, with the model that it names."""
    if certificate is None:
        return Basis(Standing.MISSING)
    score = score_digest(policy, certificate.model.digest)
    return Basis(certificate.standing(policy, score, now.timestamp()), certificate)


def bases(folder: Path, policies: Iterable[Policy], now: datetime | None = None) -> dict[str, Basis]:
    """By id, of the policies that have a certificate or require one. A certificate that cannot be read is none."""
    found: dict[str, Basis] = {}
    for policy in policies:
        path = folder / f"{policy.id}{SUFFIX}"
        certificate = read_file(path) if path.exists() else None
        if certificate is not None or policy.certificate:
            readable = certificate if isinstance(certificate, Certificate) else None
            found[policy.id] = basis(policy, readable, now or datetime.now(UTC))
    return found


def mistakes(folder: Path, read: Iterable[Read], now: datetime | None = None) -> Iterator[Mistake]:
    """What is wrong with the certificates beside these policies.

    An error: a file that is no certificate. A warning: a certificate that does not hold or soon ends, and a policy that
    requires one and has none. Of a retired policy, nobody misses the certificate.
    """
    now = now or datetime.now(UTC)
    for file in read:
        path = folder / f"{file.policy.id}{SUFFIX}"
        certificate = read_file(path) if path.exists() else None
        if isinstance(certificate, Mistake):
            yield certificate
        elif file.policy.status is PolicyStatus.RETIRED:
            continue
        elif certificate is not None:
            yield from _of_standing(path, file.policy, certificate, now)
        elif file.policy.certificate:
            line, _ = place(file.document.node, ("certificate",))
            text = f"certificate: there is no {path.name} beside it, so {HELD}: certify the policy with {AGAIN}"
            yield Mistake(Kind.WARNING, file.document.path, line + 1, text)


def _of_standing(path: Path, policy: Policy, certificate: Certificate, now: datetime) -> Iterator[Mistake]:
    standing = basis(policy, certificate, now).standing
    name, held = f"{policy.id}.yaml", f", and {HELD}" if policy.certificate else ""
    end = f"{certificate.expires_at.astimezone(UTC):%Y-%m-%d}"
    if standing is Standing.OTHER_SCORE:
        text = (
            f"score_digest: it was given for other words, or for another preparation of posts, than {name} has with "
            f"this version; it does not hold{held}: certify the policy again with {AGAIN}, or take the change back"
        )
        yield Mistake(Kind.WARNING, path, line_of(path, "score_digest"), text)
    elif standing is Standing.OTHER_THRESHOLD:
        certified = {"threshold": ("remove", certificate.threshold), "mass": ("mass", certificate.mass)}
        of_policy = {"remove": policy.thresholds.remove, "mass": policy.thresholds.mass}
        for key, (threshold, value) in certified.items():
            if value != of_policy[threshold]:
                text = (
                    f"{key}: it certifies {value}, and thresholds.{threshold} of {name} is {of_policy[threshold]}; "
                    f"it does not hold{held}: write {threshold}: {value}, or certify the policy again with {AGAIN}"
                )
                yield Mistake(Kind.WARNING, path, line_of(path, key), text)
    elif standing is Standing.EXPIRED:
        text = f"expires_at: it ended on {end}{held}: certify the policy again with {AGAIN}"
        yield Mistake(Kind.WARNING, path, line_of(path, "expires_at"), text)
    elif days_left(certificate, now) < SOON_DAYS:
        then = f". Then {HELD}" if policy.certificate else ""
        text = f"expires_at: it ends on {end}{then}: certify the policy again with {AGAIN}"
        yield Mistake(Kind.WARNING, path, line_of(path, "expires_at"), text)
