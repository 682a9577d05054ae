"""Policies: prose for the model, numbers for the decision. A folder of YAML files is a set.

    schema          what a policy file may say
    languages       which language tags may be of one text
    loading         reads the files of a folder
    mistakes        file, line and key of each mistake, in words
    checks          all mistakes and warnings of a folder
    policy_set      the policies of a deployment, and their digest
    prompts         what the model reads of a post and a policy
    certificates    what is known of a threshold, and the decision state: which certificates hold now
    certified       which policies of a folder stand on one, and why the others do not
    decision        from the model's scores to an outcome

Nothing here knows how a model is asked.
"""

from __future__ import annotations

from moderation.policies.certificates import Certificate, State, States, score_digest
from moderation.policies.checks import Checked, Tokenizer, check
from moderation.policies.decision import Decision, NotRecordedError, Said, decide, decided, finding_of
from moderation.policies.mistakes import Kind, Mistake
from moderation.policies.policy_set import PolicySet, digest_of
from moderation.policies.schema import Clause, Policy, PolicyThresholds, json_schema

__all__ = [
    "Certificate",
    "Checked",
    "Clause",
    "Decision",
    "Kind",
    "Mistake",
    "NotRecordedError",
    "Policy",
    "PolicySet",
    "PolicyThresholds",
    "Said",
    "State",
    "States",
    "Tokenizer",
    "check",
    "decide",
    "decided",
    "digest_of",
    "finding_of",
    "json_schema",
    "score_digest",
]
