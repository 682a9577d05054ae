"""Reads the topics as a consumer, and lists what is wrong with them. It does not know the workers or the faults."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from aiokafka import ConsumerRecord

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
    """How often each promise was broken. A run has failed unless all are zero."""

    missing: int = 0
    duplicated: int = 0
    contradictory: int = 0
    forgotten: int = 0  # posts that got another decision, though nothing about them had changed
    out_of_order: int = 0  # keys
    strays: int = 0  # verdicts on what was never sent, or with another post's id, or in another partition
    wrong_dead_letters: int = 0
    uncommitted: int = 0  # partitions whose committed offset is not behind all that was sent
    went_back: int = 0  # times that a committed offset was seen to fall
    examples: list[str] = field(default_factory=list)

    @property
    def broken(self) -> int:
        return sum(value for value in asdict(self).values() if isinstance(value, int))

    def note(self, what: str) -> None:
        if len(self.examples) < 12:
            self.examples.append(what)


def check(sent: Sequence[Sent], verdicts: Sequence[ConsumerRecord], letters: Sequence[ConsumerRecord]) -> Findings:
    """Compares the verdict and dead-letter topics, both in log order, with what was sent."""
    findings = Findings()
    known = {post.place: post for post in sent}
    published: dict[Place, list[dict[str, Any]]] = defaultdict(list)
    order: dict[object, list[Place]] = defaultdict(list)
    for record in verdicts:
        if (copied := _position(record, "copy-of")) is not None:
            findings.strays += copied not in known or known[copied].reason != ERASED
            continue
        verdict = _verdict(record)
        source = verdict["source"]
        place = source.get("partition", 0), int(source.get("offset", 0))
        post = known.get(place)
        if post is None or record.partition != place[0] or (post.id and verdict["postId"] != post.id):
            findings.strays += 1
            findings.note(f"stray verdict for {place}")
            continue
        published[place].append(verdict)
        order[post.key if post.key is not None else place[0]].append(place)
    for place, post in known.items():
        several = published[place]
        if not several:
            findings.missing += 1
            findings.note(f"no verdict for {place}")
        findings.duplicated += max(0, len(several) - 1)
        if len({_decision(verdict) for verdict in several}) > 1:
            findings.contradictory += 1
            findings.note(f"{len(several)} contradictory verdicts for {place}")
        if any(_reason(verdict) != post.reason for verdict in several):
            findings.wrong_dead_letters += 1
            reasons = [_reason(verdict) for verdict in several]
            findings.note(f"verdict for {place} has reason {reasons}, not {post.reason!r}")
    for places in order.values():
        findings.out_of_order += places != sorted(places)
    _check_repeats(findings, published)
    _check_letters(findings, known, letters)
    return findings


def _verdict(record: ConsumerRecord) -> dict[str, Any]:
    """The verdict. For an erasure: the fields that its headers give."""
    if record.value is not None:
        return dict(json.loads(record.value))
    partition, offset = _position(record, "erased-by") or (-1, -1)
    source = {"partition": partition, "offset": offset}
    return {"postId": record.key.decode(), "source": source, "reason": ERASED}


def _position(record: ConsumerRecord, header: str) -> Place | None:
    """The place that a header of an erasure names."""
    named = next((value.decode() for name, value in record.headers if name == header), None)
    return (int(named.split("/")[1]), int(named.split("/")[2])) if named else None


def _reason(verdict: Mapping[str, Any]) -> str:
    """Of the first part of the post that was not judged; ERASED; empty: all of it was judged."""
    return str(next((problem["reason"] for problem in verdict.get("problems", ())), verdict.get("reason", "")))


def _decision(verdict: Mapping[str, Any]) -> str:
    """What two verdicts on one record must agree in; the nonce of the fake's mass is part of it."""
    return json.dumps([verdict.get(name) for name in ("outcome", "status", "reason", "findings")])


def _check_repeats(findings: Findings, published: Mapping[Place, Sequence[Mapping[str, Any]]]) -> None:
    """An unchanged post gets the verdict that it had before, unless it was erased since. The cache ensures this.

    The fake gives each judgement a mass of its own, so two judgements of one post differ.
    """
    lives: dict[str, int] = defaultdict(int)  # by post id: how often the post was erased up to here
    decided: dict[str, dict[str, Place]] = defaultdict(dict)  # by question: decisions, and the place of each first one
    for place in sorted(published):
        for verdict in published[place]:
            if _reason(verdict) == ERASED:
                lives[verdict["postId"]] += 1
            elif _is_reusable(verdict):
                question = _question(verdict, lives[verdict["postId"]])
                decided[question].setdefault(_decision(verdict), place)
    for question, decisions in decided.items():
        if (places := set(decisions.values())) and len(places) > 1:  # of one record alone: see contradictory
            findings.forgotten += 1
            findings.note(f"{len(decisions)} decisions on {question}, at {sorted(places)}")


def _is_reusable(verdict: Mapping[str, Any]) -> bool:
    """Whether the model scored all policies. What failed may be tried again."""
    policies = verdict.get("findings", ())
    scored = all(finding.get("reason", "") in ("", "NO_ANSWER") for finding in policies)
    return bool(policies) and not _reason(verdict) and scored


def _question(verdict: Mapping[str, Any], life: int) -> str:
    """All that a decision follows from."""
    policies = [finding["policyId"] for finding in verdict["findings"]]
    names = ("postId", "tenant", "contentDigest")
    digests = [verdict[name]["digest"] for name in ("policySet", "model")]
    return json.dumps([*(verdict.get(name, "") for name in names), *digests, policies, life])


def _check_letters(findings: Findings, known: Mapping[Place, Sent], letters: Iterable[ConsumerRecord]) -> None:
    codes: dict[Place, list[str]] = defaultdict(list)
    for letter in letters:
        headers = {name: value.decode("utf-8", "replace") for name, value in letter.headers if value is not None}
        place = int(headers["dlq.original.partition"]), int(headers["dlq.original.offset"])
        codes[place].append(headers["dlq.error.code"])
    expected = {place: [post.reason] for place, post in known.items() if post.reason not in ("", ERASED)}
    for place in codes.keys() | expected.keys():
        if codes[place] != expected.get(place, []):
            findings.wrong_dead_letters += 1
            findings.note(f"dead letters for {place}: {codes[place]}, not {expected.get(place, [])}")
