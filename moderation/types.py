"""The nouns of the service: frozen data, with no behaviour beyond values derived from the fields.

A post becomes, in turn: Post -> Content -> (with Questions) Encoded -> Answer -> Finding -> Verdict.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from moderation.problems import CUT, LIMITS, STANDING, Detail, Problem, Reason

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["CUT", "LIMITS", "STANDING", "Detail", "Problem", "Reason"]  # besides what is defined here

# Largest difference allowed between a probability and the sigmoid of its margin. In float32 they differ by some 1e-7,
# in float16 by 5e-4 at most. Thresholds have two or three digits.
SIGMOID_ERROR = 1e-3

MAX_LABEL_BYTES = 128  # of a post's tenant, language or surface


class Outcome(IntEnum):
    """The action for a post. Ordered by strictness; the numbers are those of the proto."""

    ALLOW = 1
    REVIEW = 2
    REMOVE = 3


class Severity(IntEnum):
    """How bad a violation of a policy is. Ordered; the numbers are those of the proto."""

    NONE = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5


class Status(IntEnum):
    """How completely the model has answered."""

    FINAL = 1  # every policy has a score
    DEGRADED = 2  # a part was not read, a policy has no answer, or an answer has no probability
    UNDETERMINED = 3  # no policy was answered: nothing was read, or the model said nothing


class Standing(StrEnum):
    """Whether a policy's certificate holds now. All but VALID: it does not, and why."""

    VALID = "VALID"
    MISSING = "CERTIFICATE_MISSING"  # there is no certificate beside the policy
    EXPIRED = "CERTIFICATE_EXPIRED"
    OTHER_SCORE = "CERTIFICATE_OF_ANOTHER_SCORE"  # its score digest is not that of the policy, model and preparation
    OTHER_THRESHOLD = "CERTIFICATE_OF_ANOTHER_THRESHOLD"  # it certifies another value of `remove` or `mass`


class Origin(IntEnum):
    """How a verdict came about. The numbers are those of the proto."""

    MODEL = 1  # the model was asked
    CACHE = 2  # a post with the same identity was decided before
    HASH = 3  # a known hash matched
    HUMAN = 4  # a person decided
    NONE = 5  # neither model nor person was asked: no policy applies, or the post could not be judged


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a post, as sent: one of the bytes and a reference to them, or why it cannot be read."""

    data: bytes | None = None
    uri: str | None = None
    alt: str = ""  # the alternative text; judged with the post's text
    problem: Problem | None = None  # then `data` and `uri` are as they were sent, and count for the digest only


@dataclass(frozen=True, slots=True)
class Post:
    """A post that a platform asks about."""

    id: str
    text: str = ""
    images: tuple[Image, ...] = ()
    tenant: str = ""
    language: str = ""  # BCP 47; empty: unknown
    surface: str = ""  # where the platform shows the post (comment, profile, ...); empty: unknown

    @property
    def has_text(self) -> bool:
        """Whether there is text to judge, alternative texts included."""
        return bool(self.text.strip()) or any(image.alt.strip() for image in self.images)

    @property
    def has_images(self) -> bool:
        """Whether there are images, also such that cannot be read."""
        return bool(self.images)


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a post as the model sees it."""

    text: str  # of the post, then the alternative texts of its images
    pictures: tuple[Picture, ...]  # RGB, upright, within the limits of moderation/media; may be more than the images
    digest: str  # sha256 hex over the text and the bytes of each image


@dataclass(frozen=True, slots=True)
class Question:
    """One policy as the model reads it, after the content."""

    policy_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Score:
    """The model's answer to one question on one window of a post."""

    probability: float  # of Yes among the answer tokens: sigmoid(margin)
    margin: float  # logit(Yes) - logit(No)
    mass: float | None  # share of the full softmax that the answer tokens hold, 0..1; None: not reported

    @property
    def sound(self) -> bool:
        """Whether the values can be a model's answer: finite floats in range, with probability and margin agreeing."""
        probability, margin, mass = self.probability, self.margin, self.mass
        return (
            isinstance(probability, float)
            and isinstance(margin, float)
            and (mass is None or (isinstance(mass, float) and 0.0 <= mass <= 1.0))
            and 0.0 <= probability <= 1.0
            and -math.inf < margin < math.inf
            and abs(probability - (0.5 + 0.5 * math.tanh(0.5 * margin))) <= SIGMOID_ERROR  # tanh overflows nowhere
        )


@dataclass(frozen=True, slots=True)
class YesNo:
    """The model's answer to one question on one window, from a server that reports no probability."""

    yes: bool


# To one question on one window of a post. A Reason: the model gave no answer.
Answer = Score | YesNo | Reason


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that judged."""

    name: str
    revision: str  # as configured; of a remote model, the name that its server reports
    digest: str  # sha256 hex over all that influences a score: weights, tokenizer, config, crops, numeric type
    alias: bool = False  # the server reports another name than the one asked for, so the model may change unseen
    caution: str = field(default="", compare=False)  # why not to rely on the model; not part of a verdict


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The numbers that turn a score into an outcome.

    At or above `review` or `remove`, a probability means REVIEW or REMOVE. Below `mass`, the model gave no answer.
    """

    review: float
    remove: float
    mass: float


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one policy for one post."""

    policy_id: str
    policy_version: int
    outcome: Outcome
    severity: Severity
    thresholds: Thresholds
    score: Score | None  # of the strictest window; None: the post was not scored
    windows: int  # how many windows of the text were scored
    counts: bool  # False: a shadow policy, which is reported and does not count
    reason: Reason | None = None  # why the finding is not FINAL
    path: str = ""  # of the part that was not judged, if the reason is a part's
    answered: int | None = None  # windows with a usable answer; None: an older version did not record it
    silence: Reason | None = None  # why the other windows have none, also where another window says REMOVE
    unweighed: YesNo | None = None  # the strictest answer that came without a probability
    score_digest: str = ""  # of all that moves the score (policies.certificates.score_digest)
    certificate: str = ""  # id of the certificate that the threshold `remove` stands on; empty: none holds
    held: Standing | None = None  # why REMOVE became REVIEW: the policy requires a certificate, and none holds

    @property
    def status(self) -> Status:
        """FINAL: the model answered, on all of the post. UNDETERMINED: no answer, so the policy's on_error counts.

        DEGRADED: an answer without a probability, or one on a part of the post.
        """
        if self.reason is None:
            return Status.FINAL
        partial = bool(self.path) and self.windows > 0
        return Status.DEGRADED if partial or self.reason is Reason.NO_PROBABILITY else Status.UNDETERMINED


@dataclass(frozen=True, slots=True)
class Source:
    """The record on the posts topic that a verdict belongs to."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    topic_id: str = ""  # of the topic, as Kafka prints it; empty: not known


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a post arrived, in seconds of time.perf_counter. The batcher takes the oldest posts first."""

    polled: float  # the same for all posts of a poll
    arrived: float  # on its topic; at most `polled`
    written: float  # for the order: as `arrived`, and at least that of the previous post of the partition
    number: int = 0  # among posts written at the same time, the lower is the older
    partition: int = 0  # a number for each assigned partition; partitions take turns


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that a post spent in each phase: the fields are phases.TIMINGS."""

    queue: float = 0.0  # from the record's arrival on its topic to its start here
    fetch: float = 0.0  # references become bytes
    decode: float = 0.0  # bytes become pictures
    encode: float = 0.0  # pictures and text become tensors
    batch_wait: float = 0.0  # the encoded post waits for its batch
    model: float = 0.0  # the batch on the device


@dataclass(frozen=True, slots=True)
class Identity:
    """The key of a decision: the same identity gives the same verdict."""

    tenant: str
    post_id: str
    content_digest: str
    policy_set_digest: str
    model_digest: str
    asked: tuple[str, ...]  # ids of the policies that apply: they depend on language and surface, which are not content
    decision_state: str = ""  # what changes decisions at run time, as in Verdict

    @property
    def digest(self) -> str:
        """SHA-256, hex, over all fields; each part is preceded by its length."""
        return _identity_digest(self)

    @property
    def question(self) -> Identity:
        """The identity without its decision state: what the model was asked. Its scores hold in every state."""
        return replace(self, decision_state="") if self.decision_state else self


@lru_cache(maxsize=4096)  # needed when a post is looked up, cached and published
def _identity_digest(identity: Identity) -> str:
    fixed = (
        identity.tenant,
        identity.post_id,
        identity.content_digest,
        identity.policy_set_digest,
        identity.model_digest,
    )
    parts = [part.encode() for part in fixed + identity.asked]
    if identity.decision_state:
        parts.append(b"state " + identity.decision_state.encode())  # no id of a policy has a space
    whole = b"".join([b"moderation.v1.identity\0", *(len(part).to_bytes(8, "big") + part for part in parts)])
    return hashlib.sha256(whole).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on a post."""

    post_id: str
    tenant: str
    content_digest: str  # empty: the content could not be read
    policy_set_digest: str
    model: ModelInfo
    outcome: Outcome
    status: Status
    origin: Origin
    deciding_policy: str  # empty: no policy objected
    severity: Severity
    findings: tuple[Finding, ...]
    decided_at_ms: int
    reason: Reason | None = None  # set when nothing of the post could be judged
    problems: tuple[Problem, ...] = ()  # what could not be judged: parts, or the post as a whole
    source: Source | None = None  # None: the post did not come from a topic
    timings: Timings = field(default_factory=Timings)
    decision_state: str = ""  # which certificates held (policies.certificates.State); empty: no policy has one

    @property
    def identity(self) -> Identity:
        """The identity that the verdict decides."""
        asked = tuple(finding.policy_id for finding in self.findings)
        return Identity(
            tenant=self.tenant,
            post_id=self.post_id,
            content_digest=self.content_digest,
            policy_set_digest=self.policy_set_digest,
            model_digest=self.model.digest,
            asked=asked,
            decision_state=self.decision_state,
        )

    @property
    def refused(self) -> Problem | None:
        """The first problem for which the record goes to the dead letters; None: it does not."""
        return next((problem for problem in self.problems if problem.refused), None)

    @property
    def stands(self) -> bool:
        """Whether the verdict can be reused for the same identity: the model has answered every policy.

        NO_ANSWER is an answer, too, and so are the others of STANDING: the model would give them again. Other reasons
        may pass, and a limit may be raised, so the post is judged again. A verdict that was shortened to fit its topic
        has no findings and cannot be reused.
        """
        reasons = [*(problem.reason for problem in self.problems), *(finding.reason for finding in self.findings)]
        answered = all(reason is None or reason in STANDING for reason in reasons)
        return bool(self.findings) and self.reason is None and answered
