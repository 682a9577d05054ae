"""Writes asyncapi.yaml and reason-codes.md, for callers. With --check, fails if a committed file differs.

asyncapi.yaml describes the three topics; reason-codes.md says what each reason means and what to do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

import moderation
from moderation import wire
from moderation.settings import KafkaSettings
from moderation.types import Detail, Problem, Reason, Standing
from moderation.v1 import moderation_service_pb2
from moderation.wire import formats
from moderation.wire.advice import DETAILS, FIX_POST, REASONS

PROTOS = Path(__file__).resolve().parent
WRITTEN = "Written by `make reference`. Change the code and run it again."

# asyncapi.yaml

TRACE = {
    "traceparent": "W3C trace context of the post. The verdict continues the trace.",
    "tracestate": "W3C trace state, passed on unchanged.",
}
DEAD_LETTER = {
    "dlq.original.topic": "Topic of the original record.",
    "dlq.original.partition": "Partition of that record.",
    "dlq.original.offset": "Offset of that record.",
    "dlq.original.timestamp": "Timestamp of that record, in milliseconds.",
    "dlq.consumer.group": "Consumer group of the worker.",
    "dlq.error.code": "Why there is a dead letter: see reason-codes.md.",
    "dlq.service.version": "Version of the worker.",
}
DETAIL = "What exactly is wrong, after the path of the field if it is one field: see reason-codes.md."
DEAD_LETTER_PARTS = {
    "dlq.post.id": "The id under which the record's verdict is published.",
    "dlq.post.tenant": "The tenant of that verdict, if it has one.",
    "dlq.value.null": "The original value was null.",
    "dlq.value.truncated": "The end of the value is left out.",
    "dlq.value.omitted": "The whole value is left out.",
    "dlq.value.size": "Size of the original value in bytes, where it is left out or truncated.",
    "dlq.value.sha256": "SHA-256, hex, of the original value, where it is left out or truncated.",
    "dlq.key.omitted": "The original key was too large and is left out.",
    "dlq.headers.omitted": "The original headers were too large and are left out.",
    "dlq.headers.escaped": "The name of an original header was not UTF-8 and is escaped.",
}


class Dumper(yaml.SafeDumper):
    """YAML without anchors: readers of the document see each part where it is used."""

    def ignore_aliases(self, data: object) -> bool:
        """Always."""
        return True


def asyncapi() -> str:
    """The AsyncAPI document of the three topics. Names of topics are the settings' defaults."""
    kafka = KafkaSettings()
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Content moderation: topics",
            "version": moderation.__version__,
            "description": (
                "Platforms produce posts. The service consumes them and produces one verdict for each post, exactly "
                "once, and a dead letter for each record of which a part was refused or could not be had. The names of "
                "the topics are defaults: MODERATION_KAFKA__POSTS_TOPIC, MODERATION_KAFKA__VERDICTS_TOPIC and "
                "MODERATION_KAFKA__DEAD_LETTER_TOPIC change them."
            ),
        },
        "defaultContentType": formats.CONTENT_TYPES["json"].decode(),
        "channels": {
            "posts": _channel(kafka.posts_topic, "Posts to judge.", "post", "erasureRequest"),
            "verdicts": _channel(
                kafka.verdicts_topic,
                "The latest verdict of each post. It is compacted and has as many partitions as the posts topic. "
                "A verdict is in the partition with the same number as its post's.",
                "verdict",
                "erasure",
                configuration={"cleanup.policy": ["compact"]},
            ),
            "deadLetters": _channel(
                kafka.dead_letters, "Records of which a part was refused or could not be had.", "deadLetter"
            ),
        },
        "operations": {
            "receivePosts": _operation("receive", "posts", "post", "erasureRequest"),
            "sendVerdicts": _operation("send", "verdicts", "verdict", "erasure"),
            "sendDeadLetters": _operation("send", "deadLetters", "deadLetter"),
        },
        "components": {"messages": messages()},
    }
    text = yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"# {WRITTEN}\n{text}"


def messages() -> dict[str, Any]:
    """The messages of all topics, by name."""
    content_type = {"enum": list(formats.READ), "description": "Format of the value. Default: application/json."}
    erased_at = {
        "type": "string",
        "pattern": "^[0-9]{1,15}$",
        "description": "Time of the record that a producer wrote, in ms since 1970. Posts that are later stay.",
    }
    written = {
        "enum": [name.decode() for name in formats.CONTENT_TYPES.values()],
        "description": "Format of the value.",
    }
    hexadecimal = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    position = {"type": "string", "pattern": "^[A-Za-z0-9._-]+/[0-9]+/[0-9]+$"}
    reason = {"enum": [str(reason) for reason in Reason]}
    replay = position | {"description": "The dead letter that was replayed, if the post was: TOPIC/PARTITION/OFFSET."}
    return {
        "post": _message(
            "A post to judge. Its key should be its id, so that its verdicts stay in order. An unknown member of the "
            "value makes the post a dead letter.",
            {"content-type": content_type, **_strings(TRACE), wire.REPLAY_OF: replay},
            schema="post",
        ),
        "erasureRequest": _message(
            "A record without a value: the verdict of the post that the key names is to be erased. A worker copies it "
            "to the other partitions; only its copies have headers.",
            {
                wire.COPY_OF: position | {"description": "The erasure that this is a copy of: TOPIC/PARTITION/OFFSET."},
                wire.ERASED_AT: erased_at,
            },
        ),
        "verdict": _message(
            "The verdict of a post. Readers should ignore members that they do not know.",
            {
                "content-type": written | {"description": "Format of the value."},
                wire.IDENTITY: hexadecimal
                | {"description": "Digest of the verdict's identity. Present if the verdict stands."},
                **_strings(TRACE),
                wire.REPLAY_OF: replay,
            },
            schema="verdict",
            required=["content-type"],
        ),
        "erasure": _message(
            "A record without a value: the verdict of the post that the key names is erased.",
            {
                wire.ERASED_BY: position | {"description": "The record that asked for it: TOPIC/PARTITION/OFFSET."},
                wire.ERASED_BY_ID: {
                    "type": "string",
                    "pattern": "^[A-Za-z0-9_-]{22}$",
                    "description": "The id of that record's topic, as Kafka prints it, where brokers give one.",
                },
                wire.ERASED_AT: erased_at,
                wire.COPY_OF: position
                | {"description": "The same erasure on another partition, if this is a copy: TOPIC/PARTITION/OFFSET."},
            },
            required=[wire.ERASED_BY, wire.ERASED_AT],
        ),
        "deadLetter": _message(
            "A record of which a part, or all, was refused or could not be had: its own key, value and headers, and "
            "the headers below. Its verdict is published, too: what could be read is judged.",
            _strings(DEAD_LETTER)
            | {"dlq.error.code": reason | {"description": DEAD_LETTER["dlq.error.code"]}}
            | _strings({"dlq.error.detail": DETAIL})
            | _strings(DEAD_LETTER_PARTS),
            required=list(DEAD_LETTER),
            key="The key of the original record.",
        ),
    }


def _message(
    summary: str,
    headers: dict[str, Any],
    *,
    schema: str = "",
    required: Sequence[str] = (),
    key: str = "The post's id.",
) -> dict[str, Any]:
    """One message. `schema`: name of the JSON Schema of the value; empty: the value has none."""
    message: dict[str, Any] = {"summary": summary}
    if headers:
        message["headers"] = {"type": "object", "properties": headers} | ({"required": [*required]} if required else {})
    if schema:
        reference = {"$ref": f"./moderation/v1/{schema}.schema.json"}
        message["payload"] = {"schemaFormat": "application/schema+json;version=draft-2020-12", "schema": reference}
    binding = {"key": {"type": "string", "description": key}, "bindingVersion": "0.5.0"}
    return message | {"bindings": {"kafka": binding}}


def _strings(descriptions: dict[str, str]) -> dict[str, Any]:
    return {name: {"type": "string", "description": text} for name, text in descriptions.items()}


def _channel(address: str, description: str, *names: str, configuration: dict[str, Any] | None = None) -> Any:
    binding: dict[str, Any] = {"topic": address, "bindingVersion": "0.5.0"}
    return {
        "address": address,
        "description": description,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {"kafka": binding | ({"topicConfiguration": configuration} if configuration else {})},
    }


def _operation(action: str, channel: str, *names: str) -> Any:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
    }


# reason-codes.md: meaning, and what to do

OF_FINDINGS = frozenset({Reason.MODEL_CHANGED})  # in no problem of a verdict

HELD: dict[Standing, tuple[str, str]] = {
    Standing.MISSING: (
        "There is no certificate beside the policy.",
        "Certify the policy, and deploy the certificate with it.",
    ),
    Standing.EXPIRED: ("The certificate has ended.", "Certify the policy again."),
    Standing.OTHER_SCORE: (
        "The certificate is for other words, for another model, or for another preparation of posts.",
        "Certify the policy again, or take the change back.",
    ),
    Standing.OTHER_THRESHOLD: (
        "The certificate is for another value of `thresholds.remove` or `thresholds.mass`.",
        "Write the value that it certifies, or certify the policy again.",
    ),
}
ERRORS: dict[str, tuple[str, str]] = {
    "INVALID_FIELD": ("A field of the request breaks its rule.", "Correct the field that BadRequest names."),
    "INVALID_POST": (
        'The post breaks a rule. `ErrorInfo.metadata["post_reason"]` is a reason from the first table, '
        '`metadata["post_detail"]` a detail from the second. BadRequest names the field, as in `post.id`.',
        FIX_POST,
    ),
    "INVALID_CURSOR": (
        "The consistency token or page token is not valid, or belongs to another query.",
        "Start again without the token.",
    ),
    "UNAUTHENTICATED": ("Credentials are missing, wrong or expired.", "Send valid credentials."),
    "MISSING_SCOPE": (
        'The credentials lack the scope in `ErrorInfo.metadata["scope"]`.',
        "Ask the operator for the scope.",
    ),
    "OTHER_TENANT": ("The tenant or the post belongs to another tenant.", "Use ids of your own tenant."),
    "OVERLOADED": ("Too many calls at once.", "Try again after RetryInfo."),
    "RATE_LIMITED": ("Too many calls by this caller within a second.", "Try again after RetryInfo, and send fewer."),
    "BACKLOG_FULL": (
        "Too many posts wait for their verdicts. The post was not accepted.",
        "Try again after RetryInfo.",
    ),
    "SLOW_READER": ("The reader of a watch did not keep up.", "Watch again from the last token, and read faster."),
    "REQUEST_ID_REUSED": ("The request id was used before with another post.", "Use a new request id for each post."),
    "NOT_READY": (
        "The view is still being built, or the keys of bearer tokens are too old.",
        "Try again after RetryInfo.",
    ),
    "STOPPING": (
        "The API is stopping, or the stream has reached its age limit.",
        "Try again at once, on a new connection.",
    ),
    "NOT_ACCEPTED": (
        "The brokers did not confirm the post in time. The post may be accepted.",
        "Make the same call again, with the same request id.",
    ),
    "STORE_UNAVAILABLE": ("The view's store cannot be used at the moment.", "Try again after RetryInfo."),
    "INTERNAL": ("A defect in the service.", "Report it to the operator, whose log has the frames."),
    "NO_POLICIES": ("This API was started without policies.", "Ask the operator to set MODERATION_POLICIES."),
    "TOO_LARGE": ("The request is larger than any request of its method can be.", "Send less in one call."),
    "SLOW_BODY": ("The request did not arrive in time.", "Try again over a faster connection."),
}


def reason_codes() -> str:
    """The page of all reasons: those of posts, then those of calls."""
    errors = [
        value.name.removeprefix("ERROR_REASON_") for value in moderation_service_pb2.ErrorReason.DESCRIPTOR.values
    ]
    calls = {name: ERRORS[name] for name in errors if name != "UNSPECIFIED"}
    return f"""# Reason codes

<!-- {WRITTEN} -->

## Posts

What could not be judged, a part of a post or all of it, is in `Verdict.problems`, each with one of these reasons.
`Verdict.reason` has one where nothing could be judged, `Finding.reason` where a finding is not FINAL, and the header
`dlq.error.code` of a dead letter why there is one. `Finding.silence` has one where some windows of a text had no
answer, also where another window says REMOVE and the finding is FINAL.

{_reasons()}
Dead letter: whether the record goes there, too, when `Verdict.problems` has the reason. REVIEW: whether a policy about
the part then counts as REVIEW at least. Under the details `too long` and `too many` it always does; under `no picture`
it does not.

A reason may come with a path and a detail, as in `images[0].data: base64`: in `Verdict.problems`, in the header
`dlq.error.detail` and in the log event `post_dead_lettered`. They never hold content. `moderation explain` says the
same of a file or a record.

{_table({str(detail): DETAILS[detail] for detail in Detail}, "detail")}
## Held removals

`Finding.held` says why the outcome is REVIEW and not REMOVE: the policy requires a certificate, and none held when the
verdict was decided. `Verdict.decision_state` has the same for all policies that have or require one; VALID never
stands there, because the id of the certificate does.

{_table({str(standing): HELD[standing] for standing in Standing if standing is not Standing.VALID}, "held")}
## Calls

A call that is refused has one of these reasons in `ErrorInfo.reason` (domain `moderation.v1`) of its gRPC status.

{_table(calls)}"""


def _reasons() -> str:
    """The table of the reasons of posts, with what a problem of each reason entails."""
    lines = ["| reason | meaning | what to do | dead letter | REVIEW |", "| --- | --- | --- | --- | --- |"]
    for reason in Reason:
        meaning, action = REASONS[reason]
        whole, part = Problem(reason), Problem(reason, "images")
        dead = "yes" if whole.refused and reason not in OF_FINDINGS else "no"
        review = "yes" if whole.limit else "of pictures" if part.limit else "no"
        lines.append(f"| `{reason}` | {meaning} | {action} | {dead} | {review} |")
    return "\n".join(lines) + "\n"


def _table(rows: dict[str, tuple[str, str]], name: str = "reason") -> str:
    lines = [f"| {name} | meaning | what to do |", "| --- | --- | --- |"]
    return (
        "\n".join([*lines, *(f"| `{name}` | {meaning} | {action} |" for name, (meaning, action) in rows.items())])
        + "\n"
    )


FILES: dict[str, Callable[[], str]] = {"asyncapi.yaml": asyncapi, "reason-codes.md": reason_codes}


def check() -> int:
    """The number of files that differ from what is written now, each named on standard error."""
    differing = [
        name
        for name, text in FILES.items()
        if not (PROTOS / name).exists() or (PROTOS / name).read_text(encoding="utf-8") != text()
    ]
    for name in differing:
        print(f"protos/{name} is out of date: run `make reference`", file=sys.stderr)
    return len(differing)


def write() -> None:
    """Writes every file."""
    for name, text in FILES.items():
        (PROTOS / name).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(1 if check() else 0)
    write()
