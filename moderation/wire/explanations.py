"""What is wrong with a record of the posts topic, or of the dead-letter topic, without its content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from moderation.errors import PostError
from moderation.settings import Settings
from moderation.types import Detail, Post, Problem, Reason
from moderation.wire import registry
from moderation.wire.dead_letters import dead_letter_marks
from moderation.wire.erasures import erased_id
from moderation.wire.formats import Headers, named_format
from moderation.wire.posts import known, post_record


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a worker makes of a record."""

    format: str  # in words
    bytes: int
    known: Post  # id and labels, as far as they are readable and valid
    erases: str  # id of the post that the record erases; empty: it is no erasure
    refused: Problem | None  # why the record is no post
    post: Post | None  # None: it is no post, or the dead letter does not hold all of it
    letter: Mapping[str, str]  # what the headers of a dead letter say, without their prefix

    @property
    def whole(self) -> bool:
        """Whether the record holds all that it came with. A dead letter may hold the beginning alone."""
        return not {"value.truncated", "value.omitted"} & set(self.letter)


def explain(
    key: bytes | None, value: bytes | None, headers: Headers, settings: Settings, problem: Problem | None = None
) -> Explanation:
    """What a worker with these settings makes of a record. `problem`: why the record cannot be read as it came."""
    headers = list(headers)
    letter = dead_letter_marks(headers)
    if "value.null" in letter:
        value = None
    size, erases = len(value or b""), erased_id(key, value) or ""
    found = Explanation(_format(value, headers), size, known(value) or Post(""), erases, None, None, letter)
    if erases or not found.whole:
        return found
    if problem is None and size > settings.kafka.max_message_bytes:
        problem = Problem(Reason.RECORD_TOO_LARGE)
    if problem is not None:
        return replace(found, refused=problem)
    try:
        post = post_record(value, headers, settings.media, schema_registry=settings.kafka.schema_registry)
    except PostError as error:
        return replace(found, refused=error.problem)
    return replace(found, post=post)


def _format(value: bytes | None, headers: Headers) -> str:
    if value is None:
        return "no value"
    named = named_format(headers)
    if isinstance(named, Detail):
        return f"content-type: {named}"
    words = {"json": "JSON", "protobuf": "Protobuf", None: "no content-type, so JSON"}[named]
    return f"{words}, behind the prefix of a schema registry" if registry.has_prefix(value) else words
