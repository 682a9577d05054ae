"""The nouns of the service: frozen data, no behaviour beyond what is derived from the fields.

The way of a post through them: Post -> Content -> (with Questions) Encoded -> Score -> Finding -> Verdict.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

# By how much a probability may differ from the sigmoid of its margin. In float32 the two differ by some 1e-7, in
# float16 by 5e-4 at most; a threshold is a number of two or three digits.
SIGMOID_ERROR = 1e-3


class Outcome(IntEnum):
    """What should happen to a post. Ordered by strictness; the numbers are those of the proto."""

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
    """How much of the verdict the model stands behind."""

    FINAL = 1  # every policy was answered
    DEGRADED = 2  # some were not, and count as their policy's on_error says
    UNDETERMINED = 3  # none was, or the post could not be judged at all


class Origin(IntEnum):
    """How a verdict came about. The numbers are those of the proto."""

    MODEL = 1  # the model was asked
    CACHE = 2  # it had been decided before, for the same identity
    HASH = 3
    HUMAN = 4
    NONE = 5  # nobody was asked: no policy applies, or the post could not be judged


class Reason(StrEnum):
    """Why a post, or one of its findings, could not be judged. A closed set: it is all that leaves the process."""

    # of a record on the posts topic
    NULL_VALUE = "NULL_VALUE"  # the record has no value
    NOT_DECODABLE = "NOT_DECODABLE"  # neither JSON nor Protobuf of moderation.v1.Post, or a header that is not UTF-8
    UNKNOWN_CONTENT_TYPE = "UNKNOWN_CONTENT_TYPE"  # the content-type header names another format
    INVALID_POST = "INVALID_POST"  # decodable, but a field breaks a rule (id missing, too many images, ...)
    RECORD_TOO_LARGE = "RECORD_TOO_LARGE"  # larger than kafka.max_message_bytes, once its batch is decompressed
    # of a post's content
    TEXT_TOO_LONG = "TEXT_TOO_LONG"
    IMAGE_FORBIDDEN = "IMAGE_FORBIDDEN"  # the reference points outside what is allowed
    IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
    IMAGE_UNAVAILABLE = "IMAGE_UNAVAILABLE"  # the store failed in a way that may pass
    IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"  # in bytes, pixels, side or aspect
    IMAGE_UNSUPPORTED = "IMAGE_UNSUPPORTED"  # not one of the formats, or a feature of it we do not read
    IMAGE_CORRUPT = "IMAGE_CORRUPT"  # truncated or broken
    # of the model
    MODEL_FAILED = "MODEL_FAILED"  # this post makes the model raise or run out of memory, alone in its batch
    MODEL_CRASHED = "MODEL_CRASHED"  # this post, alone in the process, has ended it several times
    NO_ANSWER = "NO_ANSWER"  # the answer tokens hold too little of the probability: the model did not answer
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"  # the post's own deadline passed before it was judged


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a post as it came: bytes, or a reference to them; exactly one of the two."""

    data: bytes | None = None
    uri: str | None = None


@dataclass(frozen=True, slots=True)
class Post:
    """What a platform asks about."""

    id: str
    text: str = ""
    images: tuple[Image, ...] = ()
    tenant: str = ""
    language: str = ""  # BCP 47; empty: unknown
    surface: str = ""  # where the platform shows it (comment, profile, ...); empty: unknown


@dataclass(frozen=True, slots=True)
class Content:
    """What the model is shown of a post."""

    text: str
    pictures: tuple[Picture, ...]  # RGB, upright, in the limits of moderation/media; may be more than the post's images
    digest: str  # sha256 hex over the text and the bytes of each image


@dataclass(frozen=True, slots=True)
class Question:
    """One policy as the model reads it: the branch that follows the content."""

    policy_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Score:
    """The model's answer to one question on one window of a post."""

    probability: float  # of Yes among the answer tokens: sigmoid(margin)
    margin: float  # logit(Yes) - logit(No)
    mass: float  # what the answer tokens hold of the full softmax, 0..1

    @property
    def sound(self) -> bool:
        """Whether the three can be a model's answer: finite floats in their ranges, probability and margin agreeing."""
        probability, margin, mass = self.probability, self.margin, self.mass
        return (
            isinstance(probability, float)
            and isinstance(margin, float)
            and isinstance(mass, float)
            and 0.0 <= probability <= 1.0
            and 0.0 <= mass <= 1.0
            and -math.inf < margin < math.inf
            and abs(probability - (0.5 + 0.5 * math.tanh(0.5 * margin))) <= SIGMOID_ERROR  # tanh overflows nowhere
        )


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Who judged."""

    name: str
    revision: str
    digest: str  # sha256 hex over all that decides a score: weights, tokenizer, config, crop setting, numeric type
    caution: str = field(default="", compare=False)  # why not to rely on it; travels in no verdict


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From which probability on a finding is REVIEW or REMOVE, and below which mass there is no answer."""

    review: float
    remove: float
    mass: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What one policy says of one post."""

    policy_id: str
    policy_version: int
    outcome: Outcome
    severity: Severity
    thresholds: Thresholds
    score: Score | None  # of the strictest window; None: there is none
    windows: int  # how many windows of the text were scored
    counts: bool  # False: a shadow policy, reported and not counted
    reason: Reason | None = None  # set: undetermined, and the outcome is the policy's on_error


@dataclass(frozen=True, slots=True)
class Source:
    """The record on the posts topic that a verdict answers."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """When a post came, in seconds of time.perf_counter: what decides which posts are the oldest."""

    polled: float  # one moment for all posts of a poll
    written: float  # to its topic; not after `polled`, and not before the post in front of it on its partition
    number: int = 0  # among posts that were written together, the lower is the older
    partition: int = 0  # which posts it shares turns with: a number for each assigned partition


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that a post spent in each phase: the fields are phases.TIMINGS."""

    queue: float = 0.0  # from the record's timestamp to its start here
    fetch: float = 0.0  # references to bytes
    decode: float = 0.0  # bytes to pictures
    encode: float = 0.0  # pictures and text to tensors
    batch_wait: float = 0.0  # encoded, waiting for its batch
    model: float = 0.0  # the batch on the device


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two questions about posts the same one: same identity, same verdict."""

    tenant: str
    post_id: str
    content_digest: str
    policy_set_digest: str
    model_digest: str
    asked: tuple[str, ...]  # policies of the set that apply: a post's language and surface decide, which are no content

    @property
    def digest(self) -> str:
        """SHA-256, hex, over all of it; each part is told from the next by length."""
        return _identity_digest(self)


@lru_cache(maxsize=4096)  # a post's is asked for when it is looked up, remembered and published
def _identity_digest(of: Identity) -> str:
    named = (of.tenant, of.post_id, of.content_digest, of.policy_set_digest, of.model_digest)
    parts = [part.encode() for part in named + of.asked]
    whole = b"".join([b"moderation.v1.identity\0", *(len(part).to_bytes(8, "big") + part for part in parts)])
    return hashlib.sha256(whole).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer for a post."""

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
    reason: Reason | None = None  # set when the post as a whole could not be judged
    source: Source | None = None  # None: did not come from a topic
    timings: Timings = field(default_factory=Timings)

    @property
    def identity(self) -> Identity:
        """What it is the answer to."""
        asked = tuple(finding.policy_id for finding in self.findings)
        return Identity(
            self.tenant, self.post_id, self.content_digest, self.policy_set_digest, self.model.digest, asked
        )

    @property
    def stands(self) -> bool:
        """Whether it answers the same identity from now on: the model has spoken to all that was asked of it.

        That it gave no answer to a policy is its answer, too. What failed for any other reason may pass, and is tried
        anew; a verdict cut to fit its topic no longer holds what the model said.
        """
        said = all(finding.reason in (None, Reason.NO_ANSWER) for finding in self.findings)
        return bool(self.findings) and self.reason is None and said
