"""What a label of a post says of its verdict under a whole policy set, and whether the verdict is a miss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from moderation.evaluation.posts.golden import ALLOWED, VIOLATES
from moderation.evaluation.posts.importing import MEANINGS
from moderation.evaluation.posts.posts import WrongLineError
from moderation.policies import Policy
from moderation.v1.verdict_pb2 import OUTCOME_ALLOW, STATUS_UNDETERMINED, Verdict


class Miss(StrEnum):
    """How a verdict differs from its label."""

    NONE = ""
    MISSED = "missed"  # it violates, and was allowed
    FALSE_ALARM = "false alarm"  # it is allowed, and was flagged
    NOT_JUDGED = "not judged"  # nothing was asked or answered


@dataclass(frozen=True, slots=True)
class Expected:
    """What a label says: that one policy flags the post or does not; without a policy: that the verdict does."""

    violates: bool
    policy: str = ""

    def miss(self, verdict: Verdict) -> Miss:
        """How the verdict differs. REVIEW counts as flagged, as REMOVE does."""
        if verdict.status == STATUS_UNDETERMINED:
            return Miss.NOT_JUDGED
        outcome = verdict.outcome
        if self.policy:
            findings = [finding for finding in verdict.findings if finding.policy_id == self.policy]
            outcome = findings[0].outcome if findings else OUTCOME_ALLOW  # it does not apply to the post
        flagged = outcome != OUTCOME_ALLOW
        if flagged == self.violates:
            return Miss.NONE
        return Miss.MISSED if self.violates else Miss.FALSE_ALARM


def expected(label: str, policies: Sequence[Policy], policy: str = "") -> Expected | None:
    """What a label says; None: there is none. policy: the one that all labels are of, if there is one.

    A label is `violates`, `allowed`, the id of a policy, of a clause, or both as POLICY/CLAUSE. Raises WrongLineError.
    """
    word = MEANINGS.get(label.casefold(), label)
    if not label:
        return None
    if word in (VIOLATES, ALLOWED):
        return Expected(word == VIOLATES, policy)
    if any(each.id == label for each in policies):
        return Expected(True, label)
    owner, _, id = label.rpartition("/")
    found = [
        Expected(violates, each.id)
        for each in policies
        if each.id == (owner or policy or each.id)
        for clauses, violates in ((each.violates, True), (each.allows, False))
        for clause in clauses
        if clause.id == id
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = " or ".join(f"{each.policy}/{id}" for each in found)
        raise WrongLineError(f"label: {len(found)} policies have a clause {id}: write {names}")
    known = ", ".join(each.id for each in policies)
    problem = f"label: must be {VIOLATES}, {ALLOWED}, the id of a policy ({known}) or of one of their clauses"
    raise WrongLineError(f"{problem}: write one of these, or leave it empty")
