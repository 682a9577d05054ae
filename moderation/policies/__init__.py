"""Policies: prose for the model, numbers for the machine. A folder of YAML files is a set; a set has a digest.

`decide` turns what the model answered into an outcome. Nothing here knows how a model is asked.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from moderation.errors import ConfigError
from moderation.policies import prompts
from moderation.types import Finding, Outcome, Post, Question, Reason, Score, Severity, Status, Thresholds

SUFFIX = ".yaml"


class PolicyStatus(StrEnum):
    """Where a policy stands in its life."""

    DRAFT = "draft"  # checked, never asked
    SHADOW = "shadow"  # asked and reported, does not count
    LIVE = "live"  # asked, and counts
    RETIRED = "retired"  # kept for the record, never asked


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, hide_input_in_errors=True)


Prose = Annotated[str, Field(min_length=1)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
OneOrMore = Annotated[tuple[Prose, ...], Field(min_length=1)]
SeverityName = Literal["none", "low", "medium", "high", "critical"]
OutcomeName = Literal["allow", "review", "remove"]


class Scope(_Part):
    """Which posts a policy is asked about. What a post does not say (its language, its surface) matches."""

    media: Annotated[tuple[Literal["text", "image"], ...], Field(min_length=1)] = Field(
        ("text", "image"), description="asked when the post has one of these"
    )
    languages: OneOrMore = Field(("*",), description="BCP 47 primary languages, or '*'")
    surfaces: OneOrMore = Field(("*",), description="the platform's surfaces, or '*'")

    def covers(self, post: Post) -> bool:
        """Whether the policy is asked about this post."""
        media = ("text" in self.media and bool(post.text.strip())) or ("image" in self.media and bool(post.images))
        return (
            media
            and (not post.language or "*" in self.languages or self._speaks(post.language))
            and (not post.surface or "*" in self.surfaces or post.surface in self.surfaces)
        )

    def _speaks(self, language: str) -> bool:
        primary = language.partition("-")[0].lower()
        return not primary or primary in {name.lower() for name in self.languages}


class Clause(_Part):
    """One thing that violates a policy, or that it allows."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,31}$")]
    text: Prose
    severity: SeverityName | None = Field(None, description="for reviewers; a verdict has the policy's severity")


class Example(_Part):
    """A post in words, and the clause that it is an example of."""

    text: Prose
    label: Prose = Field(description="the id of a clause")


class Limits(_Part):
    """The numbers that turn a probability into an outcome."""

    review: Probability = Field(description="P(Yes) from which on a person should look")
    remove: Probability = Field(description="P(Yes) from which on the post is taken down")
    mass: Probability = Field(0.5, description="below this share of the softmax the model has not answered")

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if not self.review < self.remove:
            raise ValueError(f"thresholds must rise: review ({self.review}) is not below remove ({self.remove})")
        return self


class Policy(_Part):
    """One policy: one yes/no question about a post."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = Field(description="also the file's name")
    version: Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)] = Field(description="rises when the text changes")
    title: Annotated[Prose, Field(description="for people and for the model, which reads it before all else")]
    status: PolicyStatus = PolicyStatus.LIVE
    severity: SeverityName = "medium"
    applies_to: Scope = Scope()
    question: Prose = Field(description="what the model answers with Yes (it violates) or No")
    definitions: dict[Prose, Prose] = Field({}, description="words that need one")
    violates: Annotated[tuple[Clause, ...], Field(min_length=1)]
    allows: tuple[Clause, ...] = ()
    examples: tuple[Example, ...] = ()
    thresholds: Limits
    on_error: OutcomeName = Field("review", description="what the policy says of a post that could not be judged")
    golden: str | None = Field(None, description="file with posts whose answer is known, beside this one")

    @model_validator(mode="after")
    def _labels_name_clauses(self) -> Self:
        ids = [clause.id for clause in (*self.violates, *self.allows)]
        if twice := sorted({one for one in ids if ids.count(one) > 1}):
            raise ValueError(f"clause ids must be unique: {', '.join(twice)}")
        if unknown := sorted({example.label for example in self.examples} - set(ids)):
            raise ValueError(f"an example's label is no clause of this policy: {', '.join(unknown)}")
        return self

    @property
    def asked(self) -> bool:
        """Whether the model is asked at all."""
        return self.status in (PolicyStatus.LIVE, PolicyStatus.SHADOW)

    @property
    def counts(self) -> bool:
        """Whether its finding counts towards a verdict's outcome."""
        return self.status is PolicyStatus.LIVE

    @cached_property
    def prose(self) -> str:
        """What the model reads of this policy, question last."""
        lines = [f"Policy: {self.title}"]
        lines += [f"{word[:1].upper()}{word[1:]}: {meaning}" for word, meaning in self.definitions.items()]
        lines += ["It is violated by a post that:", *(f"- {clause.text}" for clause in self.violates)]
        if self.allows:
            lines += ["It is not violated by:", *(f"- {clause.text}" for clause in self.allows)]
        violating = {clause.id for clause in self.violates}
        lines += [f'"{one.text}": {"Yes" if one.label in violating else "No"}' for one in self.examples]
        return "\n".join([*lines, self.question])

    @cached_property
    def outcome_on_error(self) -> Outcome:
        """What the policy says of a post that could not be judged."""
        return Outcome[self.on_error.upper()]

    @cached_property
    def _severity(self) -> Severity:
        return Severity[self.severity.upper()]

    @cached_property
    def _limits(self) -> Thresholds:
        return Thresholds(self.thresholds.review, self.thresholds.remove, self.thresholds.mass)

    @cached_property
    def question_for_model(self) -> Question:
        """The branch of this policy."""
        return Question(self.id, self.prose)

    def find(self, windows: Sequence[Score]) -> Finding:
        """The finding from the scores of each window of the post: the strictest stands.

        A window without an answer counts as `on_error`, and leaves the finding undetermined unless another window
        already says REMOVE: nothing can be stricter than that.
        """
        answered = [score for score in windows if math.isfinite(score.margin) and score.mass >= self.thresholds.mass]
        strictest = max(answered or windows, key=lambda score: score.margin, default=None)
        outcome = self._outcome(strictest) if strictest and answered else Outcome.ALLOW
        silent = len(answered) < len(windows) or not windows
        undetermined = silent and outcome is not Outcome.REMOVE
        return Finding(
            policy_id=self.id,
            policy_version=self.version,
            outcome=max(outcome, self.outcome_on_error) if undetermined else outcome,
            severity=self._severity,
            thresholds=self._limits,
            score=strictest,
            windows=len(windows),
            counts=self.counts,
            reason=Reason.NO_ANSWER if undetermined else None,
        )

    def _outcome(self, score: Score) -> Outcome:
        if score.probability >= self.thresholds.remove:
            return Outcome.REMOVE
        return Outcome.REVIEW if score.probability >= self.thresholds.review else Outcome.ALLOW


@dataclass(frozen=True, slots=True)
class Decision:
    """What a set of findings comes to."""

    outcome: Outcome
    status: Status
    deciding_policy: str
    severity: Severity


def decide(findings: Iterable[Finding]) -> Decision:
    """The strictest outcome of the findings that count; among equals the gravest, then the likeliest, decides.

    No finding that counts: ALLOW and FINAL, since no policy objects to such a post.
    """
    counted = [finding for finding in findings if finding.counts]
    silent = sum(finding.reason is not None for finding in counted)
    status = Status.FINAL if not silent else Status.UNDETERMINED if silent == len(counted) else Status.DEGRADED
    strictest = max(counted, key=_rank, default=None)
    if strictest is None or strictest.outcome is Outcome.ALLOW:
        return Decision(Outcome.ALLOW, status, "", Severity.NONE)
    return Decision(strictest.outcome, status, strictest.policy_id, strictest.severity)


def _rank(finding: Finding) -> tuple[int, int, float]:
    score = finding.score
    return finding.outcome, finding.severity, score.probability if score and math.isfinite(score.probability) else 0.0


@dataclass(frozen=True, slots=True)
class PolicySet:
    """The policies of a deployment, in the order of their ids."""

    policies: tuple[Policy, ...]
    digest: str  # sha256 hex, see `digest_of`

    @classmethod
    def of(cls, policies: Iterable[Policy]) -> PolicySet:
        """The set of these policies. Raises ConfigError when none is live: such a set would allow everything."""
        ordered = tuple(sorted(policies, key=lambda policy: policy.id))
        if not any(policy.counts for policy in ordered):
            raise ConfigError("no policy has status live, so every post would be allowed: make one live")
        return cls(ordered, digest_of(ordered))

    @classmethod
    def load(cls, folder: Path) -> PolicySet:
        """The set in a folder. Raises ConfigError with one line for each mistake: file, line, key, what is wrong."""
        if not folder.is_dir():
            what = "is a file: name its folder" if folder.exists() else "no such folder"
            raise ConfigError(f"{folder}: {what}; MODERATION_POLICIES names the folder of your policies")
        stray = sorted(folder.glob("*.yml"))
        files = sorted(folder.glob(f"*{SUFFIX}"))
        mistakes = [f"{path}:1: rename it to {SUFFIX}, or it would not be read" for path in stray]
        if not files and not stray:
            raise ConfigError(f"{folder}: holds no policy (*{SUFFIX}); `policies/` of the project is one to start from")
        policies: list[Policy] = []
        for path in files:
            try:
                policies.append(read(path))
            except ConfigError as error:
                mistakes.append(str(error))
        if mistakes:
            raise ConfigError("\n".join(mistakes))
        return cls.of(policies)

    @property
    def on_error(self) -> Outcome:
        """The outcome of a post that could not be judged at all: the strictest that a live policy asks for."""
        return max(policy.outcome_on_error for policy in self.policies if policy.counts)

    def asked_of(self, post: Post) -> tuple[Policy, ...]:
        """The policies that the model is asked about this post."""
        return tuple(policy for policy in self.policies if policy.asked and policy.applies_to.covers(post))


def digest_of(policies: Sequence[Policy]) -> str:
    """Changes with any text that the model sees, any threshold, and whatever else turns an answer into an outcome."""
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
        }
        for policy in sorted(policies, key=lambda policy: policy.id)
        if policy.asked
    ]
    canonical = json.dumps([prompts.WORDS, described], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def json_schema() -> str:
    """The JSON Schema of a policy file, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Policy.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


# Reading a file: pydantic says what is wrong, the YAML nodes say where.


def read(path: Path) -> Policy:
    """One policy. Raises ConfigError with a line for each mistake."""
    try:
        node = yaml.compose(path.read_bytes().decode("utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"{path}:{line}: not readable as YAML: {problem}") from None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:1: a policy is a mapping of keys to values")
    try:
        mistakes = [f"{path}:{line}: {key}: given twice" for line, key in _given_twice(node)]
    except RecursionError:
        raise ConfigError(f"{path}:1: an alias (*) in it contains itself") from None
    mistakes += [
        f"{path}:{key.start_mark.line + 1}: id: must be the file's name, {path.stem}"
        for key, value in node.value
        if key.value == "id" and value.value != path.stem
    ]
    try:
        policy = Policy.model_validate(yaml.SafeLoader("").construct_document(node))
    except ValidationError as error:
        mistakes += [_located(path, node, one["loc"], one["msg"]) for one in error.errors(include_url=False)]
    except (yaml.YAMLError, ValueError) as error:  # a foreign tag, a key that is no scalar, a date that is none
        mistakes.append(f"{path}:1: not readable as YAML: {getattr(error, 'problem', None) or 'unknown construct'}")
    else:
        if policy.golden and not (path.parent / policy.golden).is_file():
            mistakes.append(_located(path, node, ("golden",), "there is no such file beside the policy"))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return policy


def _given_twice(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """YAML keeps the last of two equal keys, silently: a policy would be weakened unseen."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _given_twice(item)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key.start_mark.line + 1, str(key.value)
                seen.add(key.value)
            yield from _given_twice(value)


def _located(path: Path, node: yaml.Node, location: tuple[int | str, ...], message: str) -> str:
    line = node.start_mark.line
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break  # a key that is missing: its mapping's line
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    message = message.removeprefix("Value error, ").replace("a valid tuple", "a list").replace("Tuple", "The list")
    if message == "Extra inputs are not permitted":
        message = "there is no such key"
        if any(character in str(location[-1]) for character in " .,"):
            message += "; a text that holds a comma must stand in quotes"
    return f"{path}:{line + 1}: {'.'.join(str(part) for part in location) or 'policy'}: {message}"
