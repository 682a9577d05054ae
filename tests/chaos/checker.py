"""Reads the topics, as any consumer may, and says what is wrong with them. Knows nothing of workers or faults."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

Place = tuple[int, int]  # partition and offset on the posts topic


ERASED = "ERASED"  # what must become of a null under a post's id: a null on the verdicts topic


@dataclass(frozen=True)
class Sent:
    """A record that was put on the posts topic, and what must become of it."""

    place: Place
    key: bytes | None
    id: str  # of the post; empty: it cannot be read
    reason: str = ""  # of the dead letter it must become; ERASED; empty: it must be judged


@dataclass
class Findings:
    """How often each promise was broken: all of them zero, or the run has failed."""

    missing: int = 0
    duplicated: int = 0
    contradictory: int = 0
    forgotten: int = 0  # posts that were answered again with another decision, though nothing about them was
    out_of_order: int = 0  # keys
    strays: int = 0  # verdicts on what was never sent, or with another post's id, or in another partition
    wrong_dead_letters: int = 0
    uncommitted: int = 0  # partitions whose committed offset is not the end
    went_back: int = 0  # times that a committed offset was seen to fall
    examples: list[str] = field(default_factory=list)

    @property
    def broken(self) -> int:
        return sum(value for value in asdict(self).values() if isinstance(value, int))

    def note(self, what: str) -> None:
        if len(self.examples) < 12:
            self.examples.append(what)


def check(sent: Sequence[Sent], verdicts: Sequence[ConsumerRecord], letters: Sequence[ConsumerRecord]) -> Findings:
    """Holds what is on the verdict and dead-letter topics, both in log order, against what was sent."""
    found = Findings()
    known = {post.place: post for post in sent}
    answers: dict[Place, list[dict[str, Any]]] = defaultdict(list)
    order: dict[object, list[Place]] = defaultdict(list)
    for record in verdicts:
        answer = _answer(record)
        source = answer["source"]
        place = source.get("partition", 0), int(source.get("offset", 0))
        post = known.get(place)
        if post is None or record.partition != place[0] or (post.id and answer["postId"] != post.id):
            found.strays += 1
            found.note(f"stray verdict for {place}")
            continue
        answers[place].append(answer)
        order[post.key if post.key is not None else place[0]].append(place)
    for place, post in known.items():
        several = answers[place]
        if not several:
            found.missing += 1
            found.note(f"no verdict for {place}")
        found.duplicated += max(0, len(several) - 1)
        if len({_decision(answer) for answer in several}) > 1:
            found.contradictory += 1
            found.note(f"{len(several)} contradictory verdicts for {place}")
        if any(answer.get("reason", "") != post.reason for answer in several):
            found.wrong_dead_letters += 1
            reasons = [answer.get("reason") for answer in several]
            found.note(f"verdict for {place} has reason {reasons}, not {post.reason!r}")
    for places in order.values():
        found.out_of_order += places != sorted(places)
    _check_repeats(found, answers)
    _check_letters(found, known, letters)
    return found


def _answer(record: ConsumerRecord) -> dict[str, Any]:
    """The verdict; of a null, which names the record that it answers in its header, as much as there is."""
    if record.value is not None:
        return dict(json.loads(record.value))
    told = next(value.decode() for name, value in record.headers if name == "erased-by")
    _, partition, offset = told.split("/")
    source = {"partition": int(partition), "offset": offset}
    return {"postId": record.key.decode(), "source": source, "reason": ERASED}


def _decision(answer: Mapping[str, Any]) -> str:
    """What two verdicts on one record must agree in; the nonce of the fake's mass is part of it."""
    return json.dumps([answer.get(name) for name in ("outcome", "status", "reason", "findings")])


def _check_repeats(found: Findings, answers: Mapping[Place, Sequence[Mapping[str, Any]]]) -> None:
    """An unchanged post gets the verdict that it had before, unless it was erased since. The cache ensures this.

    The fake gives every judgement a mass of its own, so that one judged twice says something else.
    """
    lives: dict[str, int] = defaultdict(int)  # of a post: how often it was erased up to here
    said: dict[str, dict[str, Place]] = defaultdict(dict)  # of a question: decisions, and where the first of each is
    for place in sorted(answers):
        for answer in answers[place]:
            if answer.get("reason") == ERASED:
                lives[answer["postId"]] += 1
            elif _stands(answer):
                said[_question(answer, lives[answer["postId"]])].setdefault(_decision(answer), place)
    for question, decisions in said.items():
        if (places := set(decisions.values())) and len(places) > 1:  # of one record alone: see contradictory
            found.forgotten += 1
            found.note(f"{len(decisions)} decisions on {question}, at {sorted(places)}")


def _stands(answer: Mapping[str, Any]) -> bool:
    """Whether a verdict can be reused: the model scored all policies. What failed may be tried again."""
    findings = answer.get("findings", ())
    said = all(finding.get("reason", "") in ("", "NO_ANSWER") for finding in findings)
    return bool(findings) and not answer.get("reason") and said


def _question(answer: Mapping[str, Any], life: int) -> str:
    """All that a decision follows from."""
    policies = [finding["policyId"] for finding in answer["findings"]]
    names = ("postId", "tenant", "contentDigest")
    digests = [answer[of]["digest"] for of in ("policySet", "model")]
    return json.dumps([*(answer.get(name, "") for name in names), *digests, policies, life])


def _check_letters(found: Findings, known: Mapping[Place, Sent], letters: Iterable[ConsumerRecord]) -> None:
    told: dict[Place, list[str]] = defaultdict(list)
    for letter in letters:
        headers = {name: value.decode("utf-8", "replace") for name, value in letter.headers if value is not None}
        place = int(headers["dlq.original.partition"]), int(headers["dlq.original.offset"])
        told[place].append(headers["dlq.error.code"])
    expected = {place: [post.reason] for place, post in known.items() if post.reason not in ("", ERASED)}
    for place in told.keys() | expected.keys():
        if told[place] != expected.get(place, []):
            found.wrong_dead_letters += 1
            found.note(f"dead letters for {place}: {told[place]}, not {expected.get(place, [])}")


async def read(bootstrap: str, topic: str, partitions: int) -> list[ConsumerRecord]:
    """All that is committed on the topic, in the order of each partition."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=8 << 20,
    )
    records: list[ConsumerRecord] = []
    async with consumer:
        every = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(every)
        await consumer.seek_to_beginning(*every)
        ends = await consumer.end_offsets(every)
        while any([await consumer.position(partition) < ends[partition] for partition in every]):
            for fetched in (await consumer.getmany(timeout_ms=200)).values():
                records += fetched
    return records
