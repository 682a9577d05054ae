"""Certificates: what is known of a policy's threshold, how surely, and for which score.

A certificate is the file `<id>.certificate.json` beside a policy. `moderation policies certify` writes it. It holds for
one score digest, for one value of `remove` and of `mass`, and until its end.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from moderation.errors import ConfigError, cause_of
from moderation.policies import prompts
from moderation.policies.mistakes import Kind, Location, Mistake, place
from moderation.policies.schema import Policy
from moderation.preparation import PREPARATION
from moderation.types import Standing

SUFFIX = ".certificate.json"  # behind the id of a policy
MOST_BYTES = 1 << 20  # of a file
REMEDY = "take it from your version control, or delete it and certify the policy again"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, strict=True)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Precision(_Part):
    """Of the groups at or above the threshold, at least `at_least` violate the policy, with this confidence."""

    at_least: Share
    confidence: Share
    design: Literal["fixed", "finite", "sequential"]  # binomial, hypergeometric, betting: evaluation.certification
    grid: tuple[Share, ...] = ()  # all thresholds that were tried, from strict to loose; empty: one
    n: Count  # groups that were labelled, or count as labelled
    k: Count  # of these: false positives, and those without a label or with a dispute
    bound: Share  # the precision that these labels show, with this confidence

    @model_validator(mode="after")
    def _some_are_right(self) -> Self:
        if self.k > self.n:
            raise ValueError("more false positives (k) than labels (n)")
        return self


class Misses(_Part):
    """Of the groups below the threshold `review`, at most `at_most` violate the policy, with this confidence."""

    at_most: Share
    confidence: Share
    review: Share
    n: Count
    k: Count  # of these: violations, and those without a label or with a dispute
    bound: Share


class Recall(_Part):
    """Of a named pool's violating groups, at least `at_least` are at or above a threshold, with this confidence."""

    at_least: Share
    confidence: Share
    pool: str  # a topic or the name of a file
    threshold: Share
    n: Count  # violating groups that were drawn
    k: Count  # of these: below the threshold, also those without a label or with a dispute
    bound: Share


class Drawn(_Part):
    """Where the labelled groups come from."""

    source: str  # a topic or the name of a file
    begins: AwareDatetime
    ends: AwareDatetime  # of the period
    population: Count  # groups at or above the threshold that could be read when the sample was drawn
    seed: Annotated[int, Field(ge=0)]


class Certified(_Part):
    """The model that judged."""

    name: str
    digest: Digest


class Certificate(_Part):
    """The file of a certificate."""

    format: Literal[1] = 1
    policy: str
    policy_version: int
    score_digest: Digest
    model: Certified
    threshold: Share  # the value of `thresholds.remove` that it holds for
    mass: Share  # and that of `thresholds.mass`: with a lower one, posts are removed that were not drawn from
    precision: Precision
    misses: Misses | None = None
    recall: Recall | None = None
    sample: Drawn
    labels_digest: Digest  # SHA-256 over the labels that it used
    rows_digest: Digest  # SHA-256 over the digests of the groups that it used up
    golden_digest: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""  # of the golden set's file at that time
    labellers: tuple[str, ...]
    issued_at: AwareDatetime
    expires_at: AwareDatetime

    @model_validator(mode="after")
    def _ends_later(self) -> Self:
        if self.expires_at <= self.issued_at:
            raise ValueError("it ends (expires_at) before it begins (issued_at)")
        try:
            self.expires_at.astimezone(UTC)
        except OverflowError:
            raise ValueError("it ends (expires_at) after the year 9999 in UTC") from None
        return self

    @cached_property
    def id(self) -> str:
        """The first 16 digits of SHA-256 over its content. Findings name it."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def standing(self, policy: Policy, score: str, now: float) -> Standing:
        """Whether it holds. score: the policy's score digest. now: seconds since 1970."""
        if self.policy != policy.id or self.score_digest != score:
            return Standing.OTHER_SCORE
        if (self.threshold, self.mass) != (policy.thresholds.remove, policy.thresholds.mass):
            return Standing.OTHER_THRESHOLD
        return Standing.VALID if now < self.expires_at.timestamp() else Standing.EXPIRED


@dataclass(frozen=True, slots=True)
class Footing:
    """What a finding of one policy stands on."""

    score_digest: str = ""
    certificate: str = ""  # id of the certificate that holds
    standing: Standing = Standing.MISSING


@dataclass(frozen=True)
class State:
    """What changes decisions at run time: which certificates hold. It is part of each post's identity."""

    text: str = ""  # of each policy that has or requires a certificate: `ID=CERTIFICATE` or `ID=STANDING`
    footings: Mapping[str, Footing] = field(default_factory=dict)  # by id of policy: those that the model is asked

    @cached_property
    def holding(self) -> frozenset[str]:
        """The ids of policies whose certificate holds."""
        return frozenset(id for id, footing in self.footings.items() if footing.standing is Standing.VALID)


class States:
    """The decision state of a policy set with one model, at any time."""

    def __init__(self, policies: Iterable[Policy], certificates: Mapping[str, Certificate], model_digest: str) -> None:
        self._policies = {policy.id: policy for policy in policies if policy.asked}
        self._certificates = certificates
        self._scores = {id: score_digest(policy, model_digest) for id, policy in self._policies.items()}
        self._ends = sorted(certificate.expires_at.timestamp() for certificate in certificates.values())
        self._known = (math.inf, -math.inf, State())  # from when, until when, the state

    def at(self, now: float) -> State:
        """The state at a time, in seconds since 1970."""
        begin, end, state = self._known
        if not begin <= now < end:
            footings = {id: self._footing(policy, now) for id, policy in self._policies.items()}
            words = [
                f"{id}={footing.certificate or footing.standing}"
                for id, footing in sorted(footings.items())
                if id in self._certificates or self._policies[id].certificate
            ]
            state = State(" ".join(words), footings)
            begin = max((at for at in self._ends if at <= now), default=-math.inf)
            self._known = begin, min((at for at in self._ends if at > now), default=math.inf), state
        return state

    def _footing(self, policy: Policy, now: float) -> Footing:
        score, certificate = self._scores[policy.id], self._certificates.get(policy.id)
        standing = certificate.standing(policy, score, now) if certificate else Standing.MISSING
        return Footing(score, certificate.id if certificate and standing is Standing.VALID else "", standing)


def score_digest(policy: Policy, model_digest: str) -> str:
    """SHA-256, hex, over what moves the score of a policy, and nothing else.

    That is its prose, the words around it, the model, and how texts and pictures are prepared. Status, version,
    severity, on_error and thresholds are not in it, so that a policy can be certified as a draft and promoted as it is.
    """
    parts = ["moderation.score.1", policy.prose, prompts.WORDS, model_digest, PREPARATION]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def load(folder: Path, ids: Iterable[str]) -> dict[str, Certificate]:
    """The certificates beside these policies. Raises ConfigError with a line for each that cannot be read."""
    found: dict[str, Certificate] = {}
    problems: list[str] = []
    for id in ids:
        path = folder / f"{id}{SUFFIX}"
        if not path.exists():
            continue
        try:
            found[id] = read(path)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))
    return found


def read(path: Path) -> Certificate:
    """The certificate in a file. Raises ConfigError, with file, line, key and what to do."""
    found = read_file(path)
    if isinstance(found, Mistake):
        raise ConfigError(str(found))
    return found


def read_file(path: Path) -> Certificate | Mistake:
    """The certificate in a file, or what keeps it from being one."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        return Mistake(Kind.ERROR, path, 0, f"not readable: {cause_of(error)}")
    if len(data) > MOST_BYTES:
        return Mistake(Kind.ERROR, path, 0, f"no certificate: it is larger than {MOST_BYTES:,} bytes; {REMEDY}")
    try:
        certificate = Certificate.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        problem = first["msg"].lower().removeprefix("value error, ")
        text = f"no certificate: {f'{key}: ' if key else ''}{problem}; {REMEDY}"
        return Mistake(Kind.ERROR, path, _line(data, first["loc"], first["msg"]), text)
    if certificate.policy != path.name.removesuffix(SUFFIX):
        text = f"policy: it certifies the policy {certificate.policy}: rename it, or delete it"
        return Mistake(Kind.ERROR, path, _line(data, ("policy",)), text)
    return certificate


def _line(data: bytes, location: Location, said: str = "") -> int:
    """The line of a key, from 1; of a file that is no JSON, the line that its parser names."""
    if named := re.search(r"at line (\d+) column", said):
        return max(1, int(named[1]))
    try:
        node = yaml.compose(data)  # JSON is YAML, but for tabs
    except (yaml.YAMLError, ValueError, RecursionError):
        return 1
    return place(node, location)[0] + 1 if node else 1


def line_of(path: Path, *keys: str) -> int:
    """The line of a key in the file of a certificate, from 1."""
    try:
        return _line(path.read_bytes(), keys)
    except OSError:
        return 1


def written(certificate: Certificate) -> str:
    """The content of its file."""
    return certificate.model_dump_json(indent=1) + "\n"


def days_left(certificate: Certificate, now: datetime) -> float:
    """Days until it ends; negative once it has."""
    return (certificate.expires_at - now).total_seconds() / 86_400
