"""The schema of a policy file: prose for the model, numbers for the decision."""

from __future__ import annotations

import json
from collections.abc import Set
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from moderation.policies import languages
from moderation.types import MAX_LABEL_BYTES, Outcome, Post, Question, Severity, Thresholds


class PolicyStatus(StrEnum):
    """Whether the model is asked about a policy, and whether the finding counts towards a verdict's outcome."""

    DRAFT = "draft"  # checked, never asked
    SHADOW = "shadow"  # asked and reported, does not count
    LIVE = "live"  # asked, and counts
    RETIRED = "retired"  # kept for the record, never asked


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, hide_input_in_errors=True)


Prose = Annotated[str, Field(min_length=1)]


def _number(value: object) -> object:
    """The value, unless it is `true` or `no`, which would count as 1 or 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "must be a number")
    return value


Number = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_number)]
Probability = Annotated[Number, Field(le=1)]
OneOrMore = Annotated[tuple[Prose, ...], Field(min_length=1)]
SeverityName = Literal["none", "low", "medium", "high", "critical"]
OutcomeName = Literal["allow", "review", "remove"]
EVERY = ("all", "any", "every", "everywhere", "none", "**")  # what authors write for '*'


def _language(tag: str) -> str:
    """The tag, if a post may have it."""
    if tag == "*" or ("_" not in tag and languages.is_valid(tag)):
        return tag
    meant = languages.tag_for(tag)
    if tag.casefold() in EVERY:
        meant = "'*'"
    elif "," in tag:
        meant = f"[{tag}]"
    write = f"write {meant}" if meant else "write the code of a language, such as en, de or pt-BR"
    raise PydanticCustomError("language", "{problem}", {"problem": f"{tag!r} is no BCP 47 tag of a language; {write}"})


# Primary subtags have two or three letters; x- and i- begin private and old tags.
Language = Annotated[
    str,
    Field(
        max_length=MAX_LABEL_BYTES,
        pattern=r"^(\*|([A-Za-z]{2,3}|[XxIi]-[A-Za-z0-9]{1,8})(-[A-Za-z0-9]{1,8})*)$",
        examples=["en", "pt-BR"],
    ),
    BeforeValidator(lambda tag: _language(tag.strip()) if isinstance(tag, str) else tag),
]


def _surface(name: str) -> str:
    """The surface, if a post may have it."""
    if (size := len(name.encode())) > MAX_LABEL_BYTES:
        problem = (
            f"no post has such a surface: it takes {size} bytes of {MAX_LABEL_BYTES} at most; write a shorter name"
        )
        raise PydanticCustomError("surface", "{problem}", {"problem": problem})
    return name


Surface = Annotated[
    str, Field(min_length=1, json_schema_extra={"maxLength": MAX_LABEL_BYTES}), AfterValidator(_surface)
]


class Scope(_Part):
    """Which posts a policy applies to. A label that a post lacks, or that nobody knows, excludes it from nothing."""

    media: Annotated[tuple[Literal["text", "image"], ...], Field(min_length=1)] = Field(
        ("text", "image"), description="the policy applies to posts that have one of these"
    )
    languages: Annotated[tuple[Language, ...], Field(min_length=1)] = Field(
        ("*",),
        description="BCP 47 tags, or '*' for all: de covers de, de-AT and deu; pt-BR covers pt-BR and pt but not pt-PT",
    )
    surfaces: Annotated[tuple[Surface, ...], Field(min_length=1)] = Field(
        ("*",), description="the platform's surfaces in any case, or '*'"
    )

    @cached_property
    def folded_surfaces(self) -> frozenset[str]:
        """The surfaces as they are compared; empty for all."""
        return frozenset() if "*" in self.surfaces else frozenset(map(folded, self.surfaces))

    def excluded_by(self, post: Post, surfaces: Set[str]) -> str:
        """The limit that the post is outside of, as in `languages: de, pt-BR`; empty if the policy applies.

        surfaces: those that the set knows, folded. A post on any other is not excluded by its surface.
        """
        if not (("text" in self.media and post.has_text) or ("image" in self.media and post.has_images)):
            return f"media: {', '.join(self.media)}"
        if post.language and not ("*" in self.languages or self._meets(post.language)):
            return f"languages: {', '.join(self.languages)}"
        if post.surface and self.folded_surfaces:
            surface = folded(post.surface)
            if surface in surfaces and surface not in self.folded_surfaces:
                return f"surfaces: {', '.join(self.surfaces)}"
        return ""

    def _meets(self, tag: str) -> bool:
        return any(languages.can_meet(limit, tag) for limit in self.languages)


def folded(surface: str) -> str:
    """A surface as surfaces are compared: case and outer spaces do not count."""
    return surface.strip().casefold()


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
    mass: Annotated[Number, Field(lt=1)] = Field(
        0.5, description="below this share of the softmax the model gave no answer"
    )

    @model_validator(mode="after")
    def _rise(self) -> Self:
        if not self.review < self.remove:
            problem = f"thresholds must rise: review ({self.review}) is not below remove ({self.remove})"
            raise ValueError(f"{problem}: lower review, or raise remove")
        return self


class AttackLimits(_Part):
    """What `moderation policies attack` may find. No role reads it, and no verdict depends on it."""

    max_flip_rate: Probability = Field(description="the share of a golden set's verdicts that one attack may flip")


class Gate(_Part):
    """What a policy must show before it is deployed. Commands hold it to that; no verdict depends on it."""

    precision: Probability | None = Field(
        None, description="`policies test`: of the posts at or above `remove`, at least this share violates"
    )
    recall: Probability | None = Field(
        None, description="`policies test`: of the violating posts, at least this share is at or above `review`"
    )
    wrong: Annotated[int, Field(ge=0, strict=True)] | None = Field(
        None, description="`policies test`: at most so many posts are a miss or a false alarm"
    )
    flips: Probability | None = Field(
        None, description="`policies diff`: at most this share of posts gets another outcome (upper bound)"
    )
    review_load: Number | None = Field(
        None, description="`policies diff`: at most this many times as many posts go to review as before"
    )
    lost_hits: Probability | None = Field(
        None,
        description="`policies diff --label`: at most this share of posts is no longer rightly flagged (upper bound)",
    )
    new_false_alarms: Probability | None = Field(
        None, description="`policies diff --label`: at most this share of posts is wrongly flagged now (upper bound)"
    )


def _mistake_at(location: tuple[str | int, ...], problem: str) -> PydanticCustomError:
    """The error of a rule over several keys, with the path to the value that is wrong."""
    return PydanticCustomError("policy_rule", "{problem}", {"problem": problem, "at": location})


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
    on_error: OutcomeName = Field(
        "review", description="the outcome where the model gives no score or a part cannot be read"
    )
    golden: str | None = Field(
        None, description="file beside this one with posts whose label is known; default <id>.golden.jsonl if it exists"
    )
    attack: AttackLimits | None = Field(None, description="limits for `moderation policies attack`")
    certificate: Literal["required"] | None = Field(
        None, description="required: without a valid certificate beside the policy, REMOVE becomes REVIEW"
    )
    gate: Gate | None = Field(None, description="limits for `moderation policies test` and `policies diff`")

    @model_validator(mode="after")
    def _labels_name_clauses(self) -> Self:
        ids: list[str] = []
        for key, clauses in (("violates", self.violates), ("allows", self.allows)):
            for place, clause in enumerate(clauses):
                if clause.id in ids:
                    raise _mistake_at((key, place, "id"), f"another clause has the id {clause.id}: give each its own")
                ids.append(clause.id)
        for place, example in enumerate(self.examples):
            if example.label not in ids:
                problem = f"no clause of this policy has the id {example.label}; its clauses are {', '.join(ids)}"
                meant = [id for id in ids if id.casefold() == example.label.casefold()]
                problem += f": write {meant[0]}" if meant else ""
                raise _mistake_at(("examples", place, "label"), problem)
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
        """The outcome without a score. Where a part cannot be read, the stricter of both counts."""
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
