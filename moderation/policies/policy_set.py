"""The policies of a deployment. A set has a digest, which verdicts carry."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from moderation.errors import ConfigError
from moderation.policies import certificates, loading, prompts
from moderation.policies.certificates import Certificate
from moderation.policies.schema import Policy
from moderation.types import Image, Outcome, Post

NO_LIVE = "no policy has status live, so every post would be allowed: make one live"


@dataclass(frozen=True, slots=True)
class PolicySet:
    """The policies of a deployment, in the order of their ids."""

    policies: tuple[Policy, ...]
    digest: str  # of `digest_of`
    surfaces: frozenset[str]  # all that a policy which the model is asked about names, folded
    read_ms: int = field(default=0, compare=False)  # when its folder was read; 0: it has none
    certificates: Mapping[str, Certificate] = field(default_factory=dict)  # by id of policy: those that lie beside them

    @classmethod
    def of(cls, policies: Iterable[Policy]) -> PolicySet:
        """The set of these policies. Raises ConfigError when none is live: such a set would allow everything."""
        ordered = tuple(sorted(policies, key=lambda policy: policy.id))
        if not any(policy.counts for policy in ordered):
            raise ConfigError(NO_LIVE)
        surfaces = frozenset().union(*(policy.applies_to.folded_surfaces for policy in ordered if policy.asked))
        return cls(ordered, digest_of(ordered), surfaces)

    @classmethod
    def load(cls, folder: Path) -> PolicySet:
        """The set in a folder. Raises ConfigError with one line for each mistake: file, line, key, problem."""
        policies = cls.of(loading.load_policies(folder))
        held = certificates.load(folder, [policy.id for policy in policies.policies])
        return replace(policies, read_ms=time.time_ns() // 1_000_000, certificates=held)

    @property
    def versions(self) -> tuple[tuple[str, int, str], ...]:
        """Id, version and status of each policy."""
        return tuple((policy.id, policy.version, policy.status.value) for policy in self.policies)

    def on_error_for(self, post: Post, holding: Set[str] = frozenset()) -> Outcome:
        """The outcome of a post whose content could not be read: as strict as the strictest `on_error`.

        The live policies count that the post's labels do not exclude. Without one: ALLOW.

        holding: ids of policies whose certificate holds. Another one that requires a certificate is REVIEW at most.
        """
        of_any_kind = replace(post, text="unread", images=(Image(),))
        live = [policy for policy in self.asked_of(of_any_kind) if policy.counts]
        outcomes = [
            min(policy.outcome_on_error, Outcome.REVIEW)
            if policy.certificate and policy.id not in holding
            else policy.outcome_on_error
            for policy in live
        ]
        return max(outcomes, default=Outcome.ALLOW)

    def asked_of(self, post: Post) -> tuple[Policy, ...]:
        """The policies that the model is asked about this post."""
        return tuple(
            policy
            for policy in self.policies
            if policy.asked and not policy.applies_to.excluded_by(post, self.surfaces)
        )

    def skipped_for(self, post: Post) -> dict[str, str]:
        """The ids of the other policies, each with the key and value of its file that excludes this post."""
        skipped = {
            policy.id: policy.applies_to.excluded_by(post, self.surfaces)
            if policy.asked
            else f"status: {policy.status}"
            for policy in self.policies
        }
        return {id: limit for id, limit in skipped.items() if limit}


def digest_of(policies: Sequence[Policy]) -> str:
    """SHA-256, hex, over every text that the model reads and everything that turns a score into an outcome."""
    described = [
        {
            "id": policy.id,
            "version": policy.version,
            "status": policy.status,
            "severity": policy.severity,
            "applies_to": policy.applies_to.model_dump(mode="json"),
            "prose": policy.prose,
            "thresholds": policy.thresholds.model_dump(mode="json"),
            "on_error": policy.on_error,
            **({"certificate": policy.certificate} if policy.certificate else {}),
        }
        for policy in sorted(policies, key=lambda policy: policy.id)
        if policy.asked
    ]
    canonical = json.dumps([prompts.WORDS, described], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
