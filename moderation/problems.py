"""Why a post, or a part of it, was not judged: reasons, details, and the problems that they make."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a post, or one of its findings, could not be judged. Of an error, only this code leaves the process.

    protos/reason-codes.md says for each reason what to do.
    """

    # a record on the posts topic
    NULL_VALUE = "NULL_VALUE"  # the record has no value
    NOT_DECODABLE = "NOT_DECODABLE"  # not JSON or Protobuf of moderation.v1.Post, also of a part; or a header's bytes
    UNKNOWN_CONTENT_TYPE = "UNKNOWN_CONTENT_TYPE"  # the content-type header names another format
    INVALID_POST = "INVALID_POST"  # decodable, but a field breaks a rule (no id, a label too long, ...)
    RECORD_TOO_LARGE = "RECORD_TOO_LARGE"  # larger than kafka.max_message_bytes, once its batch is decompressed
    # a part of a post's content
    TEXT_TOO_LONG = "TEXT_TOO_LONG"  # windows spread over the text are judged
    TOO_MANY_IMAGES = "TOO_MANY_IMAGES"  # the first ones are judged
    IMAGE_FORBIDDEN = "IMAGE_FORBIDDEN"  # the reference points outside what is allowed
    IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
    IMAGE_UNAVAILABLE = "IMAGE_UNAVAILABLE"  # the image's store failed in a way that may pass
    IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"  # in bytes, pixels or side
    IMAGE_SHAPE = "IMAGE_SHAPE"  # too thin for its length
    IMAGE_UNSUPPORTED = "IMAGE_UNSUPPORTED"  # an unsupported format, or an unsupported feature of a format
    IMAGE_CORRUPT = "IMAGE_CORRUPT"  # truncated or broken
    FRAMES_UNSEEN = "FRAMES_UNSEEN"  # an animation shows more than the frames that are judged stand for
    # the model
    MODEL_FAILED = "MODEL_FAILED"  # the post makes the model raise or run out of memory, alone in its batch
    MODEL_CRASHED = "MODEL_CRASHED"  # the post, alone in the process, has ended the process several times
    NO_ANSWER = "NO_ANSWER"  # the answer tokens hold too little of the probability
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"  # the post, or a part of it, was not judged within its time limit
    # the server of a remote model
    NO_PROBABILITY = "NO_PROBABILITY"  # the server says Yes or No without a probability
    REFUSED = "REFUSED"  # the model refused to answer
    CONTENT_FILTERED = "CONTENT_FILTERED"  # a filter in front of the model or behind it stopped the request
    UNAVAILABLE = "UNAVAILABLE"  # the server gave no answer, for longer than an outage may last
    PICTURES_UNSEEN = "PICTURES_UNSEEN"  # the server answers without regard to pictures
    MODEL_CHANGED = "MODEL_CHANGED"  # another model than the one in the verdict's digest has answered


class Detail(StrEnum):
    """What exactly is wrong at the path of a Problem: a closed set, which holds nothing of the post.

    protos/reason-codes.md says for each detail what to do.
    """

    # the value of a record
    EMPTY = "empty"
    NOT_UTF8 = "not UTF-8"  # also of a field, or of a header
    NOT_JSON = "not JSON"
    NOT_PROTOBUF = "not Protobuf"
    NO_CONTENT_TYPE = "Protobuf without a content-type header"
    JSON_AS_PROTOBUF = "JSON with the content type of Protobuf"
    SCHEMA_REGISTRY = "schema registry prefix"  # which the settings do not let the worker read
    OTHER_MESSAGE = "another message of its schema"  # behind the prefix of a schema registry
    TOO_DEEP = "nested too deep"
    TOO_MANY = "too many"  # elements of the value, or headers
    LONG_NUMBER = "number too long"
    # a header
    OTHER_FORMAT = "another format"
    CHARSET = "another charset"
    # a field
    GIVEN_TWICE = "given twice"
    UNKNOWN_FIELD = "unknown field"  # in the part at the path: an unknown name may be content
    NOT_A_STRING = "not a string"
    NOT_AN_ARRAY = "not an array"
    NOT_AN_OBJECT = "not an object"
    MISSING = "missing"
    TOO_LONG = "too long"
    CONTROL_CHARACTER = "control character"
    LONE_SURROGATE = "lone surrogate"  # of UTF-16: half a character
    # an image
    BASE64 = "base64"
    DATA_URL = "data URL"
    NO_PICTURE = "no picture"  # bytes in which no viewer sees one
    MEMORY = "memory"  # decoding takes more than its header announces
    ENDS_DECODER = "ends its decoder"  # twice: the process that decodes it crashes
    TWO_SOURCES = "data and uri"
    SCHEME = "scheme"  # of a reference: none that is read
    # an image on a web server
    URL = "URL"  # none that all readers of URLs read alike
    HOST = "host"  # not one of the settings
    ADDRESS = "address"  # not on the public internet
    REDIRECTS = "redirects"  # too many
    CERTIFICATE = "certificate"
    HTTP_STATUS = "HTTP status"  # that is none of success


# A limit of ours cut something off, or a part of a file is missing: the outcome is at least REVIEW.
LIMITS = frozenset(
    {
        Reason.RECORD_TOO_LARGE,
        Reason.TEXT_TOO_LONG,
        Reason.TOO_MANY_IMAGES,
        Reason.IMAGE_TOO_LARGE,
        Reason.IMAGE_SHAPE,
        Reason.IMAGE_UNSUPPORTED,
        Reason.IMAGE_CORRUPT,  # viewers show what is there
        Reason.FRAMES_UNSEEN,
    }
)
LIMIT_DETAILS = frozenset({Detail.TOO_LONG, Detail.TOO_MANY})
# No bytes were refused, so there is no dead letter.
CUT = LIMITS - {Reason.RECORD_TOO_LARGE, Reason.IMAGE_UNSUPPORTED, Reason.IMAGE_CORRUPT} | {Reason.PICTURES_UNSEEN}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a post, or a part of it, was not judged. Nothing else of an error leaves the process."""

    reason: Reason
    path: str = ""  # of the part, as images[0].data; empty: the post as a whole
    detail: Detail | None = None

    def __str__(self) -> str:
        """As in `images[0].data: base64`; empty if the reason says it all."""
        return ": ".join(part for part in (self.path, self.detail) if part)

    @property
    def limit(self) -> bool:
        """Whether the outcome is at least REVIEW: our limit cut something off, or a part of a file is missing."""
        late = self.reason is Reason.DEADLINE_EXCEEDED and bool(self.path)  # images may be made to take long
        return late or (self.reason in LIMITS and self.detail is not Detail.NO_PICTURE) or self.detail in LIMIT_DETAILS

    @property
    def refused(self) -> bool:
        """Whether the record goes to the dead letters: bytes were refused, could not be had, or make the model fail."""
        return self.reason not in CUT and self.reason not in STANDING

    @property
    def of_picture(self) -> bool:
        """Whether the part is a picture: a policy for text alone is not about it."""
        return self.path.startswith("images") and not self.path.endswith(".alt")

    @property
    def of_text(self) -> bool:
        """Whether the part is text, alternative texts included."""
        return bool(self.path) and not self.of_picture


# What the model says of a post, and says again when it is asked again.
STANDING = frozenset({Reason.NO_ANSWER, Reason.NO_PROBABILITY, Reason.REFUSED, Reason.CONTENT_FILTERED})
# The same record may be judged at a later time: a store, a server or a machine was away. The others say of the bytes,
# of a setting or of the model what another attempt would say again.
PASSING = frozenset(
    {
        Reason.IMAGE_NOT_FOUND,
        Reason.IMAGE_UNAVAILABLE,
        Reason.DEADLINE_EXCEEDED,
        Reason.MODEL_FAILED,
        Reason.UNAVAILABLE,
    }
)
