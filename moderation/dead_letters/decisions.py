"""Which dead letters may be replayed, and why others may not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from moderation.dead_letters.letters import Letter
from moderation.dead_letters.standing import Newest, Standing, Waiting, rank
from moderation.problems import PASSING
from moderation.types import Source
from moderation.wire.json_out import clamped_ms


class Why(StrEnum):
    """Why a dead letter is not replayed. The texts say the rest."""

    FOREIGN = "FOREIGN"
    OTHER_TOPIC = "OTHER_TOPIC"
    NO_PARTITION = "NO_PARTITION"
    NO_VALUE = "NO_VALUE"
    NO_ID = "NO_ID"
    SAME_AGAIN = "SAME_AGAIN"
    REPEATED = "REPEATED"
    REPLAYED = "REPLAYED"
    LATER = "LATER"
    ERASED = "ERASED"
    UNPROVEN = "UNPROVEN"
    NOT_WHOLE = "NOT_WHOLE"
    OTHER_ID = "OTHER_ID"
    OVERTAKEN = "OVERTAKEN"
    TOO_LARGE = "TOO_LARGE"


TEXTS: Mapping[Why, str] = {
    Why.FOREIGN: "its headers do not say which record it is of",
    Why.OTHER_TOPIC: "its record is of another topic than MODERATION_KAFKA__POSTS_TOPIC",
    Why.NO_PARTITION: "the posts topic has no such partition",
    Why.NO_VALUE: "the record has no value; to erase a verdict, send null under the post's id",
    Why.NO_ID: "neither its value nor its key holds a post id, so a replay would be another post",
    Why.SAME_AGAIN: "the same record would get the same verdict; --reason or a position replays it all the same",
    Why.REPEATED: "another dead letter of the same record is replayed",
    Why.REPLAYED: "it was replayed before",
    Why.LATER: "the post came again later",
    Why.ERASED: "the post was erased later",
    Why.UNPROVEN: "the verdicts topic no longer has the verdict on this record, so the post may have been edited or "
    "erased since; --unproven replays it all the same",
    Why.NOT_WHOLE: "the dead letter does not hold all of the record, and the posts topic does not have it any more",
    Why.OTHER_ID: "the record holds another post id than its verdict",
    Why.OVERTAKEN: "the post came again while the record was sent, and that later record was sent again behind it",
    Why.TOO_LARGE: "the record is larger than MODERATION_KAFKA__MAX_MESSAGE_BYTES or than the posts topic takes",
}


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a dead letter is not replayed."""

    why: Why
    where: str = ""  # the later record, TOPIC/PARTITION/OFFSET

    def __str__(self) -> str:
        return f"{TEXTS[self.why]}{f' ({self.where})' if self.where else ''}"


class Decision(NamedTuple):
    """What becomes of one dead letter."""

    letter: Letter
    skip: Skip | None  # None: it is replayed, or would be
    at: str = ""  # where the replayed record is: TOPIC/PARTITION/OFFSET; empty: nothing was written


@dataclass(frozen=True, slots=True)
class Rules:
    """What a replay may do."""

    posts_topic: str
    partitions: int  # of the posts topic
    explicit: bool = False  # the caller has named the reasons or the dead letters
    unproven: bool = False  # also replay what the verdicts topic says nothing about


def refused(letter: Letter, rules: Rules) -> Skip | None:
    """Why the dead letter must not be replayed, whatever came later; None: nothing speaks against it."""
    original = letter.original
    if original is None:
        return Skip(Why.FOREIGN)
    if original.topic != rules.posts_topic:
        return Skip(Why.OTHER_TOPIC, original.topic)
    if original.partition >= rules.partitions:
        return Skip(Why.NO_PARTITION, f"{original.topic}/{original.partition}")
    if letter.null:
        return Skip(Why.NO_VALUE)
    if not letter.post_id or letter.post_id.startswith("kafka:"):
        return Skip(Why.NO_ID)
    if letter.reason not in PASSING and not rules.explicit:
        return Skip(Why.SAME_AGAIN)
    return None


def superseded(letter: Letter, standing: Standing, rules: Rules) -> Skip | None:
    """What came later under the post's id; None: nothing did. For a dead letter that is not `refused`."""
    original = letter.original
    if original is None:
        return Skip(Why.FOREIGN)
    if later := _later(letter, original, standing):
        return later
    if original.partition not in standing.newest(letter.post_id) and not rules.unproven:
        return Skip(Why.UNPROVEN)
    return None


def _later(letter: Letter, original: Source, standing: Standing) -> Skip | None:
    for number, waiting in standing.waiting(letter.post_id).items():
        # A topic that was made again begins at offset 0, so a later record may have a lower offset.
        before = waiting.offset <= original.offset and waiting.timestamp_ms <= original.timestamp_ms
        if number != original.partition or not before:
            return _skip(letter, waiting, f"{original.topic}/{number}/{waiting.offset}")
    at = rank(original.timestamp_ms, letter.timestamp_ms)
    for number, newest in standing.newest(letter.post_id).items():
        other = newest.erases or not _is_of(newest, original)
        if other and (number == original.partition or newest.rank >= at):
            return _skip(letter, newest, "/".join(map(str, newest.source)) if newest.source else "")
    return None


def _is_of(newest: Newest, original: Source) -> bool:
    """Whether the verdict is on this very record. A topic that was made again has other times at the same offsets."""
    same = newest.source == (original.topic, original.partition, original.offset)
    return same and (original.timestamp_ms <= 0 or newest.source_ms == clamped_ms(original.timestamp_ms))


def _skip(letter: Letter, later: Newest | Waiting, where: str) -> Skip:
    if later.erases:
        return Skip(Why.ERASED, where)
    return Skip(Why.REPLAYED if later.replay_of == letter.position else Why.LATER, where)
