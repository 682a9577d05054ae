"""Policies: prose for the model, numbers for the decision. A folder of YAML files is a set.

    schema          what a policy file may say
    loading         reads the files of a folder
    mistakes        file, line and key of each mistake, in words
    policy_set      the policies of a deployment, and their digest
    prompts         what the model reads of a post and a policy
    decision        from the model's scores to an outcome

Nothing here knows how a model is asked.
"""

from __future__ import annotations

from moderation.policies.decision import Decision, decide, finding_of
from moderation.policies.policy_set import PolicySet, digest_of
from moderation.policies.schema import Clause, Policy, PolicyThresholds, json_schema

__all__ = [
    "Clause",
    "Decision",
    "Policy",
    "PolicySet",
    "PolicyThresholds",
    "decide",
    "digest_of",
    "finding_of",
    "json_schema",
]
