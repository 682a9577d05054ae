"""Kafka values and gRPC messages to our types and back: one set of rules for both.

Reading a post is strict, whatever its format: a field that is not read is content that is not judged. Reading a
verdict is lenient towards fields that a newer version has added, so that versions can be mixed in a rollout.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Iterable
from typing import Any, Literal

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

import moderation
from moderation.errors import PostError
from moderation.settings import MediaSettings
from moderation.types import (
    Finding,
    Image,
    ModelInfo,
    Origin,
    Outcome,
    Post,
    Reason,
    Score,
    Severity,
    Source,
    Status,
    Thresholds,
    Timings,
    Verdict,
)
from moderation.v1 import post_pb2, verdict_pb2
from moderation.wire import json_in, json_out, prescan

Headers = Iterable[tuple[str, bytes | None]]  # as Kafka has them: a name may repeat, a value may be null
Format = Literal["json", "protobuf"]

IDENTITY = "verdict-identity"  # header of a verdict that stands: the digest of its identity
ERASED_BY = "erased-by"  # header of an erasure: the record on the posts topic that asked for it, TOPIC/PARTITION/OFFSET
CONTENT_TYPES: dict[Format, bytes] = {"json": b"application/json", "protobuf": b"application/x-protobuf"}
MAX_ID_BYTES = 512
MAX_LABEL_BYTES = 128  # tenant, language, surface
MAX_URI_BYTES = 4096
MAX_POST_ELEMENTS = 1_000  # JSON's members, items, arrays and objects, or Protobuf's fields; a post has some thirty
MAX_VERDICT_ELEMENTS = 100_000  # the same of a verdict, which has some twenty for each policy

_FORMATS: dict[str, Format] = {
    "application/json": "json",
    "application/x-protobuf": "protobuf",
    "application/protobuf": "protobuf",
}
_TEXTS = frozenset(field.name for field in post_pb2.Post.DESCRIPTOR.fields if field.message_type is None)
_POST_MESSAGES = prescan.nested(post_pb2.Post)
_VERDICT_MESSAGES = prescan.nested(verdict_pb2.Verdict)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_SECONDS, _NANOS = range(-62_135_596_800, 253_402_300_800), range(10**9)  # of a Timestamp: the years 1 to 9999
_PLACE = re.compile(rb"([A-Za-z0-9._-]{1,249})/([0-9]{1,9})/([0-9]{1,18})")


# Posts


def post(message: post_pb2.Post, media: MediaSettings) -> Post:
    """The post, its fields checked. Raises PostError naming the field that breaks a rule."""
    if problem := id_problem(message.id):
        raise PostError(Reason.INVALID_POST, f"id {problem}")

    def refuse(problem: str, reason: Reason = Reason.INVALID_POST) -> PostError:
        return PostError(reason, problem, post_id=message.id)

    if _has_unknown_fields(message):
        raise refuse("a field is not known to this version")
    for name, value in (("tenant", message.tenant), ("language", message.language), ("surface", message.surface)):
        if problem := _string_problem(value, MAX_LABEL_BYTES):
            raise refuse(f"{name} {problem}")
    if len(message.text) > media.max_text_chars:
        raise refuse(f"text is longer than {media.max_text_chars} characters", Reason.TEXT_TOO_LONG)
    if len(message.images) > media.max_images:
        raise refuse(f"images: more than {media.max_images}")
    for index, image in enumerate(message.images):
        if not (image.data or image.uri):
            raise refuse(f"images[{index}]: one of data and uri must be set and not empty")
        if len(image.data) > media.max_bytes:
            raise refuse(f"images[{index}].data is larger than {media.max_bytes} bytes", Reason.IMAGE_TOO_LARGE)
        if problem := _string_problem(image.uri, MAX_URI_BYTES):
            raise refuse(f"images[{index}].uri {problem}")
    return Post(
        id=message.id,
        text=message.text,
        images=tuple(Image(data=image.data or None, uri=image.uri or None) for image in message.images),
        tenant=message.tenant,
        language=message.language,
        surface=message.surface,
    )


def post_record(value: bytes | None, headers: Headers, media: MediaSettings) -> Post:
    """The post in a record of the posts topic. Raises PostError, and nothing else, whatever the bytes are."""
    if value is None:
        raise PostError(Reason.NULL_VALUE, "the record has no value")
    format = _format(headers)
    if format is None:
        raise PostError(Reason.UNKNOWN_CONTENT_TYPE, f"content-type is none of {', '.join(_FORMATS)}")
    if format == "json":
        return post(_post_from_json(value), media)
    try:
        prescan.check_protobuf(value, _POST_MESSAGES, MAX_POST_ELEMENTS)
        message = post_pb2.Post.FromString(value)
    except (DecodeError, ValueError):
        raise PostError(Reason.NOT_DECODABLE, "the value is not a Protobuf moderation.v1.Post") from None
    return post(message, media)


def post_id_for(key: bytes | None, source: Source) -> str:
    """What stands for the id of a post that cannot be read: the record's key if it can be an id, else its position."""
    try:
        id = (key or b"").decode()
    except UnicodeDecodeError:
        id = ""
    return f"kafka:{source.topic}/{source.partition}/{source.offset}" if id_problem(id) else id


def erased_id(key: bytes | None, value: bytes | None) -> str | None:
    """The id of the post that a record of the posts topic says to erase: one without a value, keyed by it."""
    if value is not None or not key:
        return None
    try:
        id = key.decode()
    except UnicodeDecodeError:
        return None
    return None if id_problem(id) else id


def erasure_headers(by: Source) -> list[tuple[str, bytes]]:
    """Of the erasure on the verdicts topic that answers a record of the posts topic."""
    return [(ERASED_BY, f"{by.topic}/{by.partition}/{by.offset}".encode())]


def erased_source(headers: Headers) -> tuple[str, int, int] | None:
    """Topic, partition and offset of the record that asked for an erasure; None: nobody says."""
    told = next((value for name, value in headers if name == ERASED_BY and value), None)
    found = _PLACE.fullmatch(told) if told else None
    return (found[1].decode(), int(found[2]), int(found[3])) if found else None


def id_problem(id: str) -> str:
    """Why a string cannot be a post id, or the empty string."""
    return "is empty" if not id else _string_problem(id, MAX_ID_BYTES)


def label_problem(value: str) -> str:
    """Why a string cannot be a tenant, a language, a surface or a policy id, or the empty string."""
    return _string_problem(value, MAX_LABEL_BYTES)


def _string_problem(value: str, max_bytes: int) -> str:
    if len(value.encode()) > max_bytes:
        return f"is longer than {max_bytes} bytes"
    return "holds a control character" if _CONTROL.search(value) else ""


def _has_unknown_fields(message: Message) -> bool:
    if len(UnknownFieldSet(message)):
        return True
    for field, value in message.ListFields():
        if field.message_type is not None:
            members = value if field.is_repeated else [value]
            if any(_has_unknown_fields(member) for member in members):
                return True
    return False


def _post_from_json(value: bytes) -> post_pb2.Post:
    post_id = ""
    try:
        prescan.check_json(value, MAX_POST_ELEMENTS)
        # RecursionError: nested too deep. ValueError: broken JSON or UTF-8, duplicate keys, absurdly long numbers
        parsed = json.loads(
            value.decode(),
            object_pairs_hook=_without_duplicates,
            parse_int=prescan.number,
            parse_float=prescan.number,
        )
        id = parsed.get("id")  # AttributeError: JSON, and no object
        post_id = id if isinstance(id, str) and _is_unicode(id) and not id_problem(id) else ""
        if "images" not in parsed and _TEXTS.issuperset(parsed) and all(type(text) is str for text in parsed.values()):
            return post_pb2.Post(**parsed)  # what most posts are, and ten times as fast
        for image in parsed.get("images") or ():
            _check_base64(image.get("data"))
        return json_format.ParseDict(parsed, post_pb2.Post())
    except (ValueError, RecursionError, TypeError, AttributeError, json_format.Error):
        # No cause: the libraries' messages quote what they choke on.
        problem = "the value is not the JSON of a moderation.v1.Post"
        raise PostError(Reason.NOT_DECODABLE, problem, post_id=post_id) from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two equal keys they take: what we judge could be what nobody sees."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _check_base64(value: object) -> None:
    """json_format skips what is no base64, and so would judge other bytes than were meant."""
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError
    encoded = value.encode("ascii")
    if b"-" in encoded or b"_" in encoded:
        if b"+" in encoded or b"/" in encoded:
            raise ValueError
        encoded = encoded.translate(bytes.maketrans(b"-_", b"+/"))
    bare = encoded.rstrip(b"=")
    padded = bare + b"=" * (-len(bare) % 4)
    if encoded not in (bare, padded):
        raise ValueError
    binascii.a2b_base64(padded, strict_mode=True)


def _is_unicode(value: str) -> bool:
    """Whether a string from JSON has no lone surrogate."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _format(headers: Headers) -> Format | None:
    """JSON where the headers do not say; None where they name another format, or more than one."""
    named = {value or b"" for name, value in headers if name.lower() == "content-type"}
    if not named:
        return "json"
    if len(named) > 1:
        return None
    name, *parameters = (part.strip().lower() for part in named.pop().decode("latin-1").split(";"))
    format = _FORMATS.get(name)
    if format == "json":
        return format if all(parameter in ("charset=utf-8", 'charset="utf-8"') for parameter in parameters) else None
    return format if not parameters else None


# Verdicts


def verdict(of: Verdict, trace_id: str = "") -> verdict_pb2.Verdict:
    """The message. Enums have the same numbers on both sides."""
    return verdict_pb2.Verdict(
        post_id=of.post_id,
        tenant=of.tenant,
        content_digest=of.content_digest,
        policy_set=verdict_pb2.PolicySet(digest=of.policy_set_digest),
        model=verdict_pb2.Model(name=of.model.name, revision=of.model.revision, digest=of.model.digest),
        engine_version=moderation.__version__,
        outcome=number(of.outcome),
        status=number(of.status),
        origin=number(of.origin),
        deciding_policy=of.deciding_policy,
        severity=number(of.severity),
        findings=[_finding(finding) for finding in of.findings],
        reason=of.reason or "",
        source=source(of.source) if of.source else None,
        timings=verdict_pb2.Timings(
            queue=of.timings.queue,
            fetch=of.timings.fetch,
            decode=of.timings.decode,
            encode=of.timings.encode,
            batch_wait=of.timings.batch_wait,
            model=of.timings.model,
        ),
        trace_id=trace_id,
        decided_at=_timestamp(of.decided_at_ms),
    )


def source(of: Source) -> verdict_pb2.Source:
    """The message."""
    timestamp = _timestamp(of.timestamp_ms)
    return verdict_pb2.Source(topic=of.topic, partition=of.partition, offset=of.offset, timestamp=timestamp)


def _finding(of: Finding) -> verdict_pb2.Finding:
    limits = of.thresholds
    message = verdict_pb2.Finding(
        policy_id=of.policy_id,
        policy_version=of.policy_version,
        thresholds=verdict_pb2.Thresholds(review=limits.review, remove=limits.remove, mass=limits.mass),
        outcome=number(of.outcome),
        status=verdict_pb2.STATUS_UNDETERMINED if of.reason else verdict_pb2.STATUS_FINAL,
        reason=of.reason or "",
        windows_scored=of.windows,
        mode=verdict_pb2.MODE_LIVE if of.counts else verdict_pb2.MODE_SHADOW,
        severity=number(of.severity),
    )
    if of.score is not None:
        message.probability, message.margin, message.mass = of.score.probability, of.score.margin, of.score.mass
    return message


def verdict_type(message: verdict_pb2.Verdict) -> Verdict:
    """The type. Raises ValueError where an enum or a reason is not known to this version."""
    spent = message.timings
    return Verdict(
        post_id=message.post_id,
        tenant=message.tenant,
        content_digest=message.content_digest,
        policy_set_digest=message.policy_set.digest,
        model=ModelInfo(message.model.name, message.model.revision, message.model.digest),
        outcome=Outcome(message.outcome),
        status=Status(message.status),
        origin=Origin(message.origin),
        deciding_policy=message.deciding_policy,
        severity=Severity(message.severity),
        findings=tuple(_finding_type(finding) for finding in message.findings),
        decided_at_ms=message.decided_at.ToMilliseconds(),
        reason=Reason(message.reason) if message.reason else None,
        source=_source_type(message.source) if message.HasField("source") else None,
        timings=Timings(spent.queue, spent.fetch, spent.decode, spent.encode, spent.batch_wait, spent.model),
    )


def _finding_type(message: verdict_pb2.Finding) -> Finding:
    limits = message.thresholds
    scored = message.HasField("probability")
    return Finding(
        policy_id=message.policy_id,
        policy_version=message.policy_version,
        outcome=Outcome(message.outcome),
        severity=Severity(message.severity),
        thresholds=Thresholds(limits.review, limits.remove, limits.mass),
        score=Score(message.probability, message.margin, message.mass) if scored else None,
        windows=message.windows_scored,
        counts=message.mode != verdict_pb2.MODE_SHADOW,
        reason=Reason(message.reason) if message.reason else None,
    )


def _source_type(message: verdict_pb2.Source) -> Source:
    return Source(message.topic, message.partition, message.offset, message.timestamp.ToMilliseconds())


def verdict_record(of: Verdict, format: Format, headers: Headers = ()) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Value and headers of a record on the verdicts topic; `headers` are the post's, whose trace goes on.

    A verdict that stands says which identity it answers, so that a worker finds it again without reading values.
    """
    traces = [(name, value) for name, value in headers if name in ("traceparent", "tracestate") and value is not None]
    trace = next((_TRACEPARENT.fullmatch(value) for name, value in traces if name == "traceparent"), None)
    trace_id = trace[1].decode() if trace else ""
    if format == "json":
        value = json_out.dumps(of, trace_id)
    else:
        value = verdict(of, trace_id).SerializeToString(deterministic=True)
    identity = [(IDENTITY, of.identity.digest.encode())] if of.stands else []
    return value, [("content-type", CONTENT_TYPES[format]), *identity, *traces]


def read_verdict(value: bytes, headers: Headers) -> verdict_pb2.Verdict:
    """The verdict in a record of the verdicts topic. Raises ValueError, without content, if it is none we can read."""
    try:
        message = _verdict_message(value, _format(headers))
        sound = _is_sound(message)
    except (DecodeError, json_format.Error, RecursionError, ValueError):
        sound = False
    if not sound:
        raise ValueError("not a moderation.v1.Verdict that this version can read")
    return message


def _is_sound(of: verdict_pb2.Verdict) -> bool:
    """Whether a verdict that anybody may have written has what ours have where a view keeps it in columns.

    What a store's types cannot hold (a time beyond 64 bits, a null character) would stop every view at this record.
    """
    texts = id_problem(of.post_id), label_problem(of.tenant), label_problem(of.deciding_policy)
    return (
        int(of.outcome) in tuple(Outcome)
        and int(of.status) in tuple(Status)
        and not any(texts)
        and of.source.partition >= 0
        and of.source.offset >= 0
        and all(one.seconds in _SECONDS and one.nanos in _NANOS for one in (of.decided_at, of.source.timestamp))
    )


def _verdict_message(value: bytes, format: Format | None) -> verdict_pb2.Verdict:
    if format == "json":
        prescan.check_json(value, MAX_VERDICT_ELEMENTS)
        try:
            return json_in.parse(value, verdict_pb2.Verdict)
        except ValueError:
            return json_format.Parse(value, verdict_pb2.Verdict(), ignore_unknown_fields=True)
    if format == "protobuf":
        prescan.check_protobuf(value, _VERDICT_MESSAGES, MAX_VERDICT_ELEMENTS)
        return verdict_pb2.Verdict.FromString(value)
    raise ValueError


def dead_letter_headers(source: Source, headers: Headers, reason: Reason, group: str) -> list[tuple[str, bytes | None]]:
    """Headers of a dead letter: the record's own, then where it came from and why."""
    carried = [(name, value) for name, value in headers if not name.startswith("dlq.")]  # of an earlier round
    told = {
        "dlq.original.topic": source.topic,
        "dlq.original.partition": str(source.partition),
        "dlq.original.offset": str(source.offset),
        "dlq.original.timestamp": str(source.timestamp_ms),
        "dlq.consumer.group": group,
        "dlq.error.code": str(reason),
        "dlq.service.version": moderation.__version__,
    }
    return [*carried, *((name, value.encode()) for name, value in told.items())]


def number(member: Outcome | Status | Origin | Severity) -> Any:
    """Of the message. A generated enum's type is known to the type checker only: at run time it is the number."""
    return int(member)


def _timestamp(milliseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(json_out.sayable(milliseconds))
    return stamp
