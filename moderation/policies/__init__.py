"""Policies: prose for the model, numbers for the decision. A folder of YAML files is a set.

    schema          what a policy file may say
    languages       which language tags may be of one text
    loading         reads the files of a folder
    mistakes        file, line and key of each mistake, in words
    checks          all mistakes and warnings of a folder
    policy_set      the policies of a deployment, and their digest
    prompts         what the model reads of a post and a policy
    decision        from the model's scores to an outcome

Nothing here knows how a model is asked.
"""

from __future__ import annotations

from moderation.policies.checks import Checked, Tokenizer, check
from moderation.policies.decision import Decision, decide, finding_of
from moderation.policies.mistakes import Kind, Mistake
from moderation.policies.policy_set import PolicySet, digest_of
from moderation.policies.schema import Clause, Policy, PolicyThresholds, json_schema

__all__ = [
    "Checked",
    "Clause",
    "Decision",
    "Kind",
    "Mistake",
    "Policy",
    "PolicySet",
    "PolicyThresholds",
    "Tokenizer",
    "check",
    "decide",
    "digest_of",
    "finding_of",
    "json_schema",
]
