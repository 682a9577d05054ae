"""Dead letters: records of which a part was refused or could not be had. Headers say where they came from and why.

A dead letter that is put on the posts topic again has the record's own headers, and one that names the dead letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import moderation
from moderation.types import Detail, Problem, Reason, Source
from moderation.wire.formats import Headers
from moderation.wire.ids import id_fault, label_fault

PREFIX = "dlq."
REPLAY_OF = "replay-of"  # of a post, and of its verdict: the dead letter that was replayed, TOPIC/PARTITION/OFFSET

_TOPIC = r"[A-Za-z0-9._-]{1,249}"
_POSITION = re.compile(rf"{_TOPIC}/\d{{1,9}}/\d{{1,18}}")
_PATH = r"[A-Za-z0-9._\[\]-]{1,100}"
# What our own dead letters hold. Others may write to the topic, so a header with anything else is left out.
_MARKS: Mapping[str, str] = {
    "original.topic": _TOPIC,
    "original.partition": r"\d{1,9}",
    "original.offset": r"\d{1,18}",
    "original.timestamp": r"-?\d{1,19}",
    "consumer.group": _TOPIC,
    "error.code": "|".join(Reason),
    "error.detail": f"{_PATH}|({_PATH}: )?({'|'.join(map(re.escape, Detail))})",
    "service.version": r"[A-Za-z0-9.+-]{1,50}",
    "value.null": "true",
    "value.truncated": "true",
    "value.omitted": "true",
    "value.size": r"\d{1,18}",
    "value.sha256": "[0-9a-f]{64}",
    "key.omitted": "true",
    "headers.omitted": "true",
    "headers.escaped": "true",
}
_LABELS = {"post.id": id_fault, "post.tenant": label_fault}


def dead_letter_headers(
    source: Source, headers: Headers, problem: Problem, group: str, *, post_id: str = "", tenant: str = ""
) -> list[tuple[str, bytes | None]]:
    """The record's own `headers`, then where the record came from and why there is a dead letter.

    Headers of an earlier dead letter, which has been put on the posts topic again, are dropped. `post_id`: of the
    verdict on the record.
    """
    own = [(name, value) for name, value in headers if not name.startswith(PREFIX)]
    added = {
        "original.topic": source.topic,
        "original.partition": str(source.partition),
        "original.offset": str(source.offset),
        "original.timestamp": str(source.timestamp_ms),
        "consumer.group": group,
        "error.code": str(problem.reason),
        **({"error.detail": str(problem)} if str(problem) else {}),
        "service.version": moderation.__version__,
        **({"post.id": post_id} if post_id else {}),
        **({"post.tenant": tenant} if tenant else {}),
    }
    return [*own, *((PREFIX + name, value.encode()) for name, value in added.items())]


def dead_letter_marks(headers: Headers) -> dict[str, str]:
    """What the headers of a dead letter say, by name without PREFIX. What no worker writes is left out."""
    marks = ((name.removeprefix(PREFIX), value or b"") for name, value in headers if name.startswith(PREFIX))
    return {mark: value.decode() for mark, value in marks if _is_ours(mark, value)}


def _is_ours(mark: str, value: bytes) -> bool:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return False
    if mark in _LABELS:
        return bool(text) and not _LABELS[mark](text)
    return mark in _MARKS and re.fullmatch(_MARKS[mark], text) is not None


def replay_headers(headers: Headers, dead_letter: str) -> list[tuple[str, bytes | None]]:
    """The headers of a replayed record: its own, and the position of its dead letter, TOPIC/PARTITION/OFFSET."""
    own = [(name, value) for name, value in headers if not name.startswith(PREFIX) and name != REPLAY_OF]
    return [*own, (REPLAY_OF, dead_letter.encode())]


def replay_of(headers: Headers) -> str:
    """The dead letter that a post, or a verdict, is a replay of: TOPIC/PARTITION/OFFSET. Empty: of none."""
    value = next((value for name, value in headers if name == REPLAY_OF and value), b"").decode("latin-1")
    return value if _POSITION.fullmatch(value) else ""
