"""Which dead letters may be replayed: each reason against it, as a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from moderation import wire
from moderation.dead_letters.decisions import TEXTS, Rules, Skip, Why, refused, superseded
from moderation.dead_letters.letters import Letter, Selection, letter_of
from moderation.dead_letters.standing import Standing
from moderation.kafka.records import Record
from moderation.settings import KafkaSettings
from moderation.types import Problem, Reason, Source, Verdict
from moderation.worker.messages import dead_letter, verdict_message
from tests.support.builders import a_verdict

KAFKA = KafkaSettings(max_dead_letter_bytes=1024)
SENT = 1_700_000_000_000  # when the post was sent, in ms
JUDGED = SENT + 5_000
SOURCE = Source("posts", 2, 7, SENT)
POST = b'{"id": "post-1", "tenant": "shop"}'
RULES = Rules("posts", 6)


def a_record(value: bytes | None = POST, key: bytes | None = b"post-1", headers: Any = ()) -> Record:
    return Record("posts", 2, 7, SENT, key, value, headers)


def a_letter(
    record: Record | None = None, reason: Reason = Reason.UNAVAILABLE, source: Source = SOURCE, path: str = ""
) -> Letter:
    message = dead_letter(source, record or a_record(), Problem(reason, path), KAFKA, post_id="post-1", tenant="shop")
    return letter_of(Record(KAFKA.dead_letters, 2, 40, JUDGED, message.key, message.value, message.headers))


def a_verdict_record(source: Source = SOURCE, partition: int = 2, at: int = JUDGED, headers: Any = ()) -> Record:
    verdict: Verdict = a_verdict("post-1", source=source)
    message = verdict_message(verdict, headers, KAFKA)
    return Record("verdicts", partition, 90, at, message.key, message.value, message.headers)


def an_erasure(partition: int = 2, at: int = SENT + 9_000, copied: bool = False) -> Record:
    source = Source("posts", partition, 8, at)
    headers = [(wire.COPY_OF, b"posts/4/1"), (wire.ERASED_AT, str(at).encode())] if copied else []
    erasure = wire.erasure("post-1", source, headers, at)
    return Record("verdicts", partition, 91, at, b"post-1", None, wire.erasure_headers(erasure, source))


def a_post(partition: int = 2, offset: int = 8, value: bytes | None = POST, key: bytes = b"post-1") -> Record:
    return Record("posts", partition, offset, SENT + 9_000, key, value, ())


def decided(
    verdicts: Sequence[Record] = (), posts: Sequence[Record] = (), rules: Rules = RULES, letter: Letter | None = None
) -> Why | None:
    letter = letter or a_letter()
    if (skip := refused(letter, rules)) is not None:
        return skip.why
    standing = Standing([letter.post_id], "posts")
    for record in verdicts:
        standing.verdict(record)
    for record in posts:
        standing.post(record)
    later = superseded(letter, standing, rules)
    return later.why if later else None


OWN = a_verdict_record()
LATER = Source("posts", 2, 8, SENT + 9_000)
REPLAY = [(wire.REPLAY_OF, f"{KAFKA.dead_letters}/2/40".encode())]


@pytest.mark.parametrize(
    ("verdicts", "posts", "why"),
    [
        ([OWN], [], None),
        ([], [], Why.UNPROVEN),
        # what came on the same partition: the order of offsets counts
        ([OWN, a_verdict_record(LATER)], [], Why.LATER),
        ([OWN, a_verdict_record(replace(LATER, timestamp_ms=1))], [], Why.LATER),
        ([OWN, an_erasure()], [], Why.ERASED),
        ([an_erasure()], [], Why.ERASED),
        ([OWN, an_erasure(copied=True)], [], Why.ERASED),
        ([OWN, an_erasure(copied=True), OWN], [], None),  # the post is later than that erasure
        ([OWN, a_verdict_record(LATER, headers=REPLAY)], [], Why.REPLAYED),
        ([OWN, a_verdict_record(LATER, headers=[(wire.REPLAY_OF, b"other/2/40")])], [], Why.LATER),
        # of another life of the topic: the same offset at another time
        ([a_verdict_record(replace(SOURCE, timestamp_ms=SENT + 1))], [], Why.LATER),
        ([a_verdict_record(replace(SOURCE, topic="others"))], [], Why.LATER),
        ([Record("verdicts", 2, 90, JUDGED, b"post-1", b"no verdict", ())], [], Why.LATER),
        # what came on another partition: the time of the post counts
        ([OWN, a_verdict_record(Source("posts", 4, 1, SENT + 1), 4)], [], Why.LATER),
        ([OWN, a_verdict_record(Source("posts", 4, 1, SENT), 4)], [], Why.LATER),
        ([OWN, a_verdict_record(Source("posts", 4, 1, SENT - 1), 4)], [], None),
        ([OWN, an_erasure(4)], [], Why.ERASED),
        ([OWN, an_erasure(4, at=SENT - 1)], [], None),
        # what waits to be judged
        ([OWN], [a_post()], Why.LATER),
        ([OWN], [a_post(value=None)], Why.ERASED),
        ([OWN], [a_post(4, 1)], Why.LATER),
        ([OWN], [a_post(4, 1, key=b"author-1")], Why.LATER),
        ([OWN], [a_post(4, 1, b'{"id": "post-2"}', b"author-1")], None),
        ([OWN], [a_post(offset=7)._replace(timestamp=SENT)], None),  # the record itself
        ([OWN], [a_post(offset=0)], Why.LATER),  # the topic was made again
        ([OWN], [a_post()._replace(headers=REPLAY)], Why.REPLAYED),
        ([OWN], [a_post(), a_post(offset=9)._replace(headers=REPLAY)], Why.REPLAYED),
    ],
)
def test_what_came_later(verdicts: Sequence[Record], posts: Sequence[Record], why: Why | None) -> None:
    assert decided(verdicts, posts) == why


def test_without_its_verdict_a_record_is_replayed_only_if_asked() -> None:
    unproven = replace(RULES, unproven=True)
    assert decided(rules=unproven) is None
    assert decided([an_erasure()], rules=unproven) == Why.ERASED
    assert decided([a_verdict_record(LATER)], rules=unproven) == Why.LATER
    assert decided([], [a_post()], unproven) == Why.LATER


@pytest.mark.parametrize(
    ("letter", "why"),
    [
        (letter_of(a_record()), Why.FOREIGN),
        (a_letter(source=replace(SOURCE, topic="others")), Why.OTHER_TOPIC),
        (a_letter(source=replace(SOURCE, partition=6)), Why.NO_PARTITION),
        (a_letter(a_record(None), Reason.NULL_VALUE), Why.NO_VALUE),
        (replace(a_letter(), post_id="kafka:posts/2/7"), Why.NO_ID),
        (replace(a_letter(), post_id=""), Why.NO_ID),
        (a_letter(reason=Reason.INVALID_POST), Why.SAME_AGAIN),
        (a_letter(reason=Reason.MODEL_CRASHED), Why.SAME_AGAIN),
    ],
)
def test_what_no_replay_can_help(letter: Letter, why: Why) -> None:
    assert decided([OWN], letter=letter) == why
    asked = replace(RULES, explicit=True)
    assert decided([OWN], rules=asked, letter=letter) == (None if why == Why.SAME_AGAIN else why)


def test_a_verdict_that_a_replay_gave_names_the_dead_letter() -> None:
    record = a_verdict_record(headers=REPLAY)
    assert wire.replay_of(record.headers) == f"{KAFKA.dead_letters}/2/40"
    assert not wire.replay_of([(wire.REPLAY_OF, b"not a position")])


@pytest.mark.parametrize(
    ("record", "whole", "post_id"),
    [
        (a_record(), True, "post-1"),
        (a_record(b'{"id": "post-1", "text": "%s"}' % (b"x" * 2000), b"author-1"), False, "post-1"),
        (a_record(headers=[("big", b"x" * 2000)]), False, "post-1"),
        (a_record(b"no post", b"author-1"), True, "author-1"),
    ],
)
def test_what_a_dead_letter_holds(record: Record, whole: bool, post_id: str) -> None:
    letter = a_letter(record, path="images[0]")
    assert (letter.whole, letter.post_id, letter.tenant) == (whole, post_id, "shop")
    assert (letter.original, letter.reason, letter.path, letter.detail) == (SOURCE, "UNAVAILABLE", "images[0]", "")
    assert letter.size == len(record.value or b"")


@pytest.mark.parametrize(
    ("selection", "fits"),
    [
        (Selection(), True),
        (Selection(reasons=frozenset({"UNAVAILABLE"})), True),
        (Selection(reasons=frozenset({"NOT_DECODABLE"})), False),
        (Selection(since_ms=JUDGED, until_ms=JUDGED + 1), True),
        (Selection(since_ms=JUDGED + 1), False),
        (Selection(until_ms=JUDGED), False),
        (Selection(key="post-1", post_id="post-1", tenant="shop"), True),
        (Selection(key="post-2"), False),
        (Selection(post_id="post-2"), False),
        (Selection(tenant="other"), False),
        (Selection(places=frozenset({(2, 40)})), True),
        (Selection(places=frozenset({(2, 41)})), False),
    ],
)
def test_which_dead_letters_are_meant(selection: Selection, fits: bool) -> None:
    assert selection.fits(a_letter()) == fits


def test_each_reason_has_its_words() -> None:
    assert set(TEXTS) == set(Why)
    assert str(Skip(Why.LATER, "posts/2/8")) == "the post came again later (posts/2/8)"
