"""Verdicts: a `Verdict` becomes a Protobuf message or the value of a record, and back.

Reading a verdict ignores fields that a newer version has added, so that versions can be mixed in a rollout.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

import moderation
from moderation.types import (
    Detail,
    Finding,
    ModelInfo,
    Origin,
    Outcome,
    Problem,
    Reason,
    Score,
    Severity,
    Source,
    Standing,
    Status,
    Thresholds,
    Timings,
    Verdict,
    YesNo,
)
from moderation.v1 import verdict_pb2
from moderation.wire import json_in, json_out, prescan
from moderation.wire.dead_letters import REPLAY_OF, replay_of
from moderation.wire.formats import CONTENT_TYPES, Format, Headers, format_of
from moderation.wire.ids import id_problem, label_problem

IDENTITY = "verdict-identity"  # header of a verdict that stands: the digest of its question
MAX_TRACESTATE_BYTES = 512
MAX_ELEMENTS = 100_000  # as for posts (posts.py); a verdict has some twenty for each policy

_MESSAGES = prescan.nested(verdict_pb2.Verdict)
_TRACEPARENT = re.compile(rb"([0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2})(-.*)?")
# A member, by W3C's trace context. Anything else could carry content of a post into the verdicts topic.
_TRACESTATE = re.compile(rb"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x7e]{0,256}")
_SECONDS, _NANOS = range(-62_135_596_800, 253_402_300_800), range(10**9)  # of a Timestamp: the years 1 to 9999


# Out


def verdict_message(verdict: Verdict, trace_id: str = "") -> verdict_pb2.Verdict:
    """The message of a verdict. Enums have the same numbers on both sides."""
    model, timings = verdict.model, verdict.timings
    return verdict_pb2.Verdict(
        post_id=verdict.post_id,
        tenant=verdict.tenant,
        content_digest=verdict.content_digest,
        policy_set=verdict_pb2.PolicySet(digest=verdict.policy_set_digest),
        model=verdict_pb2.Model(name=model.name, revision=model.revision, digest=model.digest, alias=model.alias),
        engine_version=moderation.__version__,
        outcome=number(verdict.outcome),
        status=number(verdict.status),
        origin=number(verdict.origin),
        deciding_policy=verdict.deciding_policy,
        severity=number(verdict.severity),
        findings=[_finding_message(finding) for finding in verdict.findings],
        reason=verdict.reason or "",
        problems=[_problem_message(problem) for problem in verdict.problems],
        source=source_message(verdict.source) if verdict.source else None,
        timings=verdict_pb2.Timings(
            queue=timings.queue,
            fetch=timings.fetch,
            decode=timings.decode,
            encode=timings.encode,
            batch_wait=timings.batch_wait,
            model=timings.model,
        ),
        trace_id=trace_id,
        decided_at=_timestamp(verdict.decided_at_ms),
        decision_state=verdict.decision_state,
    )


def source_message(source: Source) -> verdict_pb2.Source:
    """The message of a source."""
    return verdict_pb2.Source(
        topic=source.topic,
        partition=source.partition,
        offset=source.offset,
        timestamp=_timestamp(source.timestamp_ms),
        topic_id=source.topic_id,
    )


def number(member: Outcome | Status | Origin | Severity) -> Any:
    """The number of an enum's member in a message. Generated enums are types for the type checker only."""
    return int(member)


def verdict_record(verdict: Verdict, format: Format, headers: Headers = ()) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Value and headers of a record on the verdicts topic. `headers`: the post's; the verdict continues their trace.

    The verdict on a replayed post names the dead letter, as the post does. A verdict that stands has a header with its
    identity, so that a worker can restore its cache without reading values.
    """
    trace_id, traces = _trace(headers)
    if format == "json":
        value = json_out.dumps(verdict, trace_id)
    else:
        value = verdict_message(verdict, trace_id).SerializeToString(deterministic=True)
    identity = [(IDENTITY, verdict.identity.question.digest.encode())] if verdict.stands else []
    replay = replay_of(headers)
    replayed = [(REPLAY_OF, replay.encode())] if replay else []
    return value, [("content-type", CONTENT_TYPES[format]), *identity, *traces, *replayed]


def _trace(headers: Headers) -> tuple[str, list[tuple[str, bytes]]]:
    """The id of a post's trace, and the headers that continue it. Headers that break the rules of W3C are left out."""
    given = {name: value or b"" for name, value in reversed(list(headers))}  # the first of a name counts
    parent, state = given.get("traceparent", b""), given.get("tracestate", b"")
    match = _TRACEPARENT.fullmatch(parent)
    if match is None:
        return "", []
    members = state.split(b",") if len(state) <= MAX_TRACESTATE_BYTES else []
    sound = bool(members) and all(_TRACESTATE.fullmatch(member.strip(b" \t")) for member in members)
    return match[2].decode(), [("traceparent", match[1]), *([("tracestate", state)] if sound else [])]


def _finding_message(finding: Finding) -> verdict_pb2.Finding:
    thresholds, score = finding.thresholds, finding.score
    message = verdict_pb2.Finding(
        policy_id=finding.policy_id,
        policy_version=finding.policy_version,
        thresholds=verdict_pb2.Thresholds(review=thresholds.review, remove=thresholds.remove, mass=thresholds.mass),
        outcome=number(finding.outcome),
        status=number(finding.status),
        reason=finding.reason or "",
        windows_scored=finding.windows,
        mode=verdict_pb2.MODE_LIVE if finding.counts else verdict_pb2.MODE_SHADOW,
        severity=number(finding.severity),
        path=finding.path,
        silence=finding.silence or "",
        score_digest=finding.score_digest,
        certificate=finding.certificate,
        held=finding.held or "",
    )
    if finding.answered is not None:
        message.windows_answered = finding.answered
    if finding.unweighed is not None:
        message.yes_without_probability = finding.unweighed.yes
    if score is not None:
        message.probability, message.margin = score.probability, score.margin
        if score.mass is not None:
            message.mass = score.mass
    return message


def _problem_message(problem: Problem) -> verdict_pb2.Problem:
    return verdict_pb2.Problem(reason=problem.reason, path=problem.path, detail=problem.detail or "")


def _timestamp(milliseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(json_out.clamped_ms(milliseconds))
    return stamp


# In


def read_verdict(value: bytes, headers: Headers) -> verdict_pb2.Verdict:
    """The message in a record of the verdicts topic. Raises ValueError, without content, if it cannot be read."""
    try:
        message = _parsed(value, format_of(headers))
        sound = _is_sound(message)
    except (DecodeError, json_format.Error, RecursionError, ValueError):
        sound = False
    if not sound:
        raise ValueError("not a moderation.v1.Verdict that this version can read")
    return message


def _parsed(value: bytes, format: Format | None) -> verdict_pb2.Verdict:
    if format == "json":
        prescan.check_json(value, MAX_ELEMENTS)
        try:
            return json_in.parse(value, verdict_pb2.Verdict)
        except ValueError:
            return json_format.Parse(value, verdict_pb2.Verdict(), ignore_unknown_fields=True)
    if format == "protobuf":
        prescan.check_protobuf(value, _MESSAGES, MAX_ELEMENTS)
        return verdict_pb2.Verdict.FromString(value)
    raise ValueError


def _is_sound(message: verdict_pb2.Verdict) -> bool:
    """Whether a message, which anybody may have written, fits the columns of a view's store.

    A value that the store's types cannot hold (a time beyond 64 bits, a null character) would stop every view here.
    """
    texts = id_problem(message.post_id), label_problem(message.tenant), label_problem(message.deciding_policy)
    times = message.decided_at, message.source.timestamp
    return (
        int(message.outcome) in tuple(Outcome)
        and int(message.status) in tuple(Status)
        and not any(texts)
        and message.source.partition >= 0
        and message.source.offset >= 0
        and all(time.seconds in _SECONDS and time.nanos in _NANOS for time in times)
    )


def verdict_from_message(message: verdict_pb2.Verdict) -> Verdict:
    """The verdict in a message. Raises ValueError where an enum or a reason is not known to this version."""
    timings = message.timings
    return Verdict(
        post_id=message.post_id,
        tenant=message.tenant,
        content_digest=message.content_digest,
        policy_set_digest=message.policy_set.digest,
        model=ModelInfo(message.model.name, message.model.revision, message.model.digest, message.model.alias),
        outcome=Outcome(message.outcome),
        status=Status(message.status),
        origin=Origin(message.origin),
        deciding_policy=message.deciding_policy,
        severity=Severity(message.severity),
        findings=tuple(_finding_from_message(finding) for finding in message.findings),
        decided_at_ms=message.decided_at.ToMilliseconds(),
        reason=Reason(message.reason) if message.reason else None,
        problems=tuple(_problem_from_message(problem) for problem in message.problems),
        source=_source_from_message(message.source) if message.HasField("source") else None,
        timings=Timings(
            timings.queue, timings.fetch, timings.decode, timings.encode, timings.batch_wait, timings.model
        ),
        decision_state=message.decision_state,
    )


def _finding_from_message(message: verdict_pb2.Finding) -> Finding:
    thresholds = message.thresholds
    scored = message.HasField("probability")
    mass = message.mass if message.HasField("mass") else None
    return Finding(
        policy_id=message.policy_id,
        policy_version=message.policy_version,
        outcome=Outcome(message.outcome),
        severity=Severity(message.severity),
        thresholds=Thresholds(thresholds.review, thresholds.remove, thresholds.mass),
        score=Score(message.probability, message.margin, mass) if scored else None,
        windows=message.windows_scored,
        counts=message.mode != verdict_pb2.MODE_SHADOW,
        reason=Reason(message.reason) if message.reason else None,
        path=message.path,
        answered=message.windows_answered if message.HasField("windows_answered") else None,
        silence=Reason(message.silence) if message.silence else None,
        unweighed=YesNo(message.yes_without_probability) if message.HasField("yes_without_probability") else None,
        score_digest=message.score_digest,
        certificate=message.certificate,
        held=Standing(message.held) if message.held else None,
    )


def _problem_from_message(message: verdict_pb2.Problem) -> Problem:
    return Problem(Reason(message.reason), message.path, Detail(message.detail) if message.detail else None)


def _source_from_message(message: verdict_pb2.Source) -> Source:
    milliseconds = message.timestamp.ToMilliseconds()
    return Source(message.topic, message.partition, message.offset, milliseconds, message.topic_id)
