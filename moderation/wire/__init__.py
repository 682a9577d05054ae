"""What goes over the wire: Kafka values and gRPC messages become our types, and back, by one set of rules.

    formats         content types and headers
    ids             rules for post ids and labels
    posts           in: the posts topic, ModeratePost
    json_posts      the JSON of a post
    protobuf_posts  the Protobuf of a post
    images          where the bytes of an image are
    registry        the prefix of a schema registry
    advice          what each reason and detail means, and what to do
    explanations    what is wrong with a record
    refusals        what is wrong where, and what is known of a post all the same
    verdicts        out and in: the verdicts topic, lookups
    erasures        in and out: records without a value
    dead_letters    out and in: the dead-letter topic
    json_out        the JSON of a verdict, written fast
    json_in         the JSON of a verdict, read fast
    prescan         bounds on a value before it is parsed

Reading a post is strict: content that is not read is not judged. Reading a verdict ignores fields of newer versions.
"""

from __future__ import annotations

from moderation.wire.dead_letters import (
    REPLAY_OF,
    dead_letter_headers,
    dead_letter_marks,
    replay_headers,
    replay_of,
)
from moderation.wire.erasures import (
    COPY_OF,
    ERASED_AT,
    ERASED_BY,
    ERASED_BY_ID,
    Erasure,
    copy_headers,
    erased_at,
    erased_id,
    erased_source,
    erased_topic_id,
    erasure,
    erasure_headers,
    is_copy,
    written_ms,
)
from moderation.wire.formats import CONTENT_TYPES, Format, Headers
from moderation.wire.ids import id_in_key, id_problem, label_problem, post_id_for
from moderation.wire.json_posts import MAX_ELEMENTS
from moderation.wire.posts import known, post, post_record
from moderation.wire.verdicts import (
    IDENTITY,
    number,
    read_verdict,
    source_message,
    verdict_from_message,
    verdict_message,
    verdict_record,
)

__all__ = [
    "CONTENT_TYPES",
    "COPY_OF",
    "ERASED_AT",
    "ERASED_BY",
    "ERASED_BY_ID",
    "IDENTITY",
    "MAX_ELEMENTS",
    "REPLAY_OF",
    "Erasure",
    "Format",
    "Headers",
    "copy_headers",
    "dead_letter_headers",
    "dead_letter_marks",
    "erased_at",
    "erased_id",
    "erased_source",
    "erased_topic_id",
    "erasure",
    "erasure_headers",
    "id_in_key",
    "id_problem",
    "is_copy",
    "known",
    "label_problem",
    "number",
    "post",
    "post_id_for",
    "post_record",
    "read_verdict",
    "replay_headers",
    "replay_of",
    "source_message",
    "verdict_from_message",
    "verdict_message",
    "verdict_record",
    "written_ms",
]
