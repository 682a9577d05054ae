"""The schema of a policy file: prose for the model, numbers for the decision."""

from __future__ import annotations

import json
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from moderation.types import Outcome, Post, Question, Severity, Thresholds


class PolicyStatus(StrEnum):
    """Whether the model is asked about a policy, and whether the finding counts towards a verdict's outcome."""

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
    """Which posts a policy applies to. A post without a language, or without a surface, matches any."""

    media: Annotated[tuple[Literal["text", "image"], ...], Field(min_length=1)] = Field(
        ("text", "image"), description="the policy applies to posts that have one of these"
    )
    languages: OneOrMore = Field(("*",), description="BCP 47 primary languages, or '*'")
    surfaces: OneOrMore = Field(("*",), description="the platform's surfaces, or '*'")

    def covers(self, post: Post) -> bool:
        """Whether the policy applies to this post."""
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
    """One kind of content that violates a policy, or that the policy allows."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,31}$")]
    text: Prose
    severity: SeverityName | None = Field(None, description="for reviewers; a verdict has the policy's severity")


class Example(_Part):
    """The text of a post, and the clause that it is an example of."""

    text: Prose
    label: Prose = Field(description="the id of a clause")


class PolicyThresholds(_Part):
    """The numbers that turn a probability into an outcome."""

    review: Probability = Field(description="at or above this P(Yes) a person should look")
    remove: Probability = Field(description="at or above this P(Yes) the post is taken down")
    mass: Probability = Field(0.5, description="below this share of the softmax the model gave no answer")

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if not self.review < self.remove:
            raise ValueError(f"thresholds must rise: review ({self.review}) is not below remove ({self.remove})")
        return self


class Policy(_Part):
    """One policy: one yes/no question about a post."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = Field(description="also the file's name")
    version: Annotated[int, Field(ge=1, le=2**31 - 1, strict=True)] = Field(
        description="raise it when the text changes"
    )
    title: Annotated[Prose, Field(description="for people, and for the model, which reads it first")]
    status: PolicyStatus = PolicyStatus.LIVE
    severity: SeverityName = "medium"
    applies_to: Scope = Scope()
    question: Prose = Field(description="the model answers Yes (the post violates the policy) or No")
    definitions: dict[Prose, Prose] = Field({}, description="terms and their meanings")
    violates: Annotated[tuple[Clause, ...], Field(min_length=1)]
    allows: tuple[Clause, ...] = ()
    examples: tuple[Example, ...] = ()
    thresholds: PolicyThresholds
    on_error: OutcomeName = Field("review", description="the outcome of a post that could not be judged")
    golden: str | None = Field(None, description="file beside this one: posts with known answers")

    @model_validator(mode="after")
    def _labels_name_clauses(self) -> Self:
        ids = [clause.id for clause in (*self.violates, *self.allows)]
        if twice := sorted({id for id in ids if ids.count(id) > 1}):
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
        """The text of this policy that the model reads, question last."""
        lines = [f"Policy: {self.title}"]
        lines += [f"{word[:1].upper()}{word[1:]}: {meaning}" for word, meaning in self.definitions.items()]
        lines += ["It is violated by a post that:", *(f"- {clause.text}" for clause in self.violates)]
        if self.allows:
            lines += ["It is not violated by:", *(f"- {clause.text}" for clause in self.allows)]
        violating = {clause.id for clause in self.violates}
        lines += [f'"{example.text}": {"Yes" if example.label in violating else "No"}' for example in self.examples]
        return "\n".join([*lines, self.question])

    @cached_property
    def outcome_on_error(self) -> Outcome:
        """The outcome of a post that could not be judged."""
        return Outcome[self.on_error.upper()]

    @cached_property
    def severity_level(self) -> Severity:
        """The severity of a finding of this policy."""
        return Severity[self.severity.upper()]

    @cached_property
    def finding_thresholds(self) -> Thresholds:
        """The thresholds as findings carry them."""
        return Thresholds(self.thresholds.review, self.thresholds.remove, self.thresholds.mass)

    @cached_property
    def question_for_model(self) -> Question:
        """The question that the model is asked about this policy."""
        return Question(self.id, self.prose)


def json_schema() -> str:
    """The JSON Schema of a policy file, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Policy.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"
