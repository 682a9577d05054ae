"""What goes over the wire: Kafka values and gRPC messages become our types, and back, by one set of rules.

    formats         content types and headers
    ids             rules for post ids and labels
    posts           in: the posts topic, ModeratePost
    verdicts        out and in: the verdicts topic, lookups
    erasures        in and out: records without a value
    dead_letters    out: the dead-letter topic
    json_out        the JSON of a verdict, written fast
    json_in         the JSON of a verdict, read fast
    prescan         bounds on a value before it is parsed

Reading a post is strict: content that is not read is not judged. Reading a verdict ignores fields of newer versions.
"""

from __future__ import annotations

from moderation.wire.dead_letters import dead_letter_headers
from moderation.wire.erasures import ERASED_BY, erased_id, erased_source, erasure_headers
from moderation.wire.formats import CONTENT_TYPES, Format, Headers
from moderation.wire.ids import id_problem, label_problem, post_id_for
from moderation.wire.posts import post, post_record
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
    "ERASED_BY",
    "IDENTITY",
    "Format",
    "Headers",
    "dead_letter_headers",
    "erased_id",
    "erased_source",
    "erasure_headers",
    "id_problem",
    "label_problem",
    "number",
    "post",
    "post_id_for",
    "post_record",
    "read_verdict",
    "source_message",
    "verdict_from_message",
    "verdict_message",
    "verdict_record",
]
