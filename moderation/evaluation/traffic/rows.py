"""Verdicts as rows of a table, without content: the columns of the archive's files, and of all that reads them.

A row is a verdict on its topic. Findings and problems are lists in it. Words that repeat are dictionaries, or become
such where they are read: a column of codes is compared in place of a column of texts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from moderation import wire
from moderation.types import Verdict
from moderation.v1 import verdict_pb2
from moderation.wire.json_out import clamped_ms

BATCH_ROWS = 2_000  # of a batch that is made from verdicts: Python's lists take more memory than columns
SCAN_ROWS = 1 << 15  # of a batch that is read from files

WORD = pa.dictionary(pa.int32(), pa.string())
TEXT = pa.string()  # in lists: Arrow reads no dictionaries there where a file has several
TIME = pa.timestamp("ms", "UTC")
FINDING: Mapping[str, pa.DataType] = {
    "policy": TEXT,
    "version": pa.int32(),
    "probability": pa.float64(),  # null: no score
    "margin": pa.float64(),
    "mass": pa.float64(),  # null: not reported
    "review": pa.float64(),  # the thresholds that applied
    "remove": pa.float64(),
    "mass_threshold": pa.float64(),
    "outcome": TEXT,
    "severity": TEXT,
    "status": TEXT,
    "counts": pa.bool_(),
    "windows": pa.int32(),
    "answered": pa.int32(),  # null: an older version wrote the finding
    "reason": TEXT,
    "path": TEXT,
    "silence": TEXT,
    "yes": pa.bool_(),  # null: each answer had a probability
    "score_digest": TEXT,
    "certificate": TEXT,
    "held": TEXT,
}
PROBLEM: Mapping[str, pa.DataType] = {"reason": TEXT, "path": TEXT, "detail": TEXT}
VERDICT: Mapping[str, pa.DataType] = {
    "post_id": pa.string(),
    "tenant": WORD,
    "content_digest": pa.string(),
    "policy_set": WORD,
    "model": WORD,
    "model_revision": WORD,
    "model_digest": WORD,
    "model_alias": pa.bool_(),
    "engine_version": WORD,
    "outcome": WORD,
    "status": WORD,
    "origin": WORD,
    "deciding_policy": WORD,
    "severity": WORD,
    "reason": WORD,
    "decided_at": TIME,
    "decision_state": WORD,
    "source_topic": WORD,
    "source_topic_id": WORD,
    "source_partition": pa.int32(),
    "source_offset": pa.int64(),
    "source_at": TIME,
    "model_seconds": pa.float64(),
    "written_at": TIME,  # of the record on the verdicts topic
    "topic_id": WORD,  # of the verdicts topic
    "partition": pa.int32(),
    "offset": pa.int64(),
}
SCHEMA = pa.schema(
    [
        *VERDICT.items(),
        ("problems", pa.list_(pa.struct(list(PROBLEM.items())))),
        ("findings", pa.list_(pa.struct(list(FINDING.items())))),
    ]
)


class Place(NamedTuple):
    """Where a verdict lies on its topic."""

    written_ms: int
    topic_id: str
    partition: int
    offset: int


class Rows:
    """Collects verdicts, and gives them as a batch of SCHEMA."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._findings: list[tuple[Any, ...]] = []
        self._problems: list[tuple[Any, ...]] = []
        self._ends: list[tuple[int, int]] = [(0, 0)]  # of the problems and findings of each row

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, verdict: verdict_pb2.Verdict, place: Place) -> None:
        """Adds a verdict as it lies on its topic, also one of a newer version."""
        self._problems += [(each.reason, each.path, each.detail) for each in verdict.problems]
        self._findings += [_finding(each) for each in verdict.findings]
        self._ends.append((len(self._problems), len(self._findings)))
        self._rows.append(_row(verdict, place))

    def taken(self) -> pa.RecordBatch:
        """The batch of what was added since the last call."""
        columns = _columns(self._rows, VERDICT)
        parts = ((self._problems, PROBLEM), (self._findings, FINDING))
        for (flat, fields), ends in zip(parts, zip(*self._ends, strict=True), strict=True):
            struct = pa.StructArray.from_arrays(_columns(flat, fields), names=list(fields))
            columns.append(pa.ListArray.from_arrays(pa.array(ends, pa.int32()), struct))
        self.__init__()  # type: ignore[misc]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


async def of_verdicts(verdicts: AsyncIterator[Verdict]) -> AsyncIterator[pa.RecordBatch]:
    """Batches of verdicts that are at hand as types, such as those of a period of the topic.

    The time of a verdict's record is not known then: `written_at` is when it was decided.
    """
    rows = Rows()
    async for verdict in verdicts:
        rows.add(wire.verdict_message(verdict), Place(verdict.decided_at_ms, "", 0, 0))
        if len(rows) >= BATCH_ROWS:
            yield rows.taken()
    if len(rows):
        yield rows.taken()


def codes(column: pa.Array, known: Mapping[str, int], other: int = -1) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The number of each word by `known`; `other` for a word that is not in it, and for null."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    numbers = np.array([known.get(word, other) for word in column.dictionary.to_pylist()] + [other], dtype=np.int64)
    found: np.ndarray[Any, np.dtype[np.int64]] = numbers[column.indices.fill_null(len(numbers) - 1).to_numpy()]
    return found


def words(column: pa.Array) -> list[str]:
    """The words that a column may hold: those of its dictionary."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    return [word for word in column.dictionary.to_pylist() if word is not None]


def _columns(rows: list[tuple[Any, ...]], fields: Mapping[str, pa.DataType]) -> list[pa.Array]:
    by_column: Iterable[Iterable[Any]] = zip(*rows, strict=True) if rows else [()] * len(fields)
    return [pa.array(list(values), type) for values, type in zip(by_column, fields.values(), strict=True)]


def _row(verdict: verdict_pb2.Verdict, place: Place) -> tuple[Any, ...]:
    model, source = verdict.model, verdict.source
    return (
        verdict.post_id,
        verdict.tenant,
        verdict.content_digest,
        verdict.policy_set.digest,
        model.name,
        model.revision,
        model.digest,
        model.alias,
        verdict.engine_version,
        _name("Outcome", verdict.outcome),
        _name("Status", verdict.status),
        _name("Origin", verdict.origin),
        verdict.deciding_policy,
        _name("Severity", verdict.severity),
        verdict.reason,
        verdict.decided_at.ToMilliseconds(),
        verdict.decision_state,
        source.topic,
        source.topic_id,
        source.partition,
        source.offset,
        source.timestamp.ToMilliseconds(),
        verdict.timings.model,
        clamped_ms(place.written_ms),
        place.topic_id,
        place.partition,
        place.offset,
    )


def _finding(finding: verdict_pb2.Finding) -> tuple[Any, ...]:
    thresholds = finding.thresholds
    scored = finding.HasField("probability")
    return (
        finding.policy_id,
        finding.policy_version,
        finding.probability if scored else None,
        finding.margin if scored else None,
        finding.mass if finding.HasField("mass") else None,
        thresholds.review,
        thresholds.remove,
        thresholds.mass,
        _name("Outcome", finding.outcome),
        _name("Severity", finding.severity),
        _name("Status", finding.status),
        finding.mode != verdict_pb2.MODE_SHADOW,
        finding.windows_scored,
        finding.windows_answered if finding.HasField("windows_answered") else None,
        finding.reason,
        finding.path,
        finding.silence,
        finding.yes_without_probability if finding.HasField("yes_without_probability") else None,
        finding.score_digest,
        finding.certificate,
        finding.held,
    )


@lru_cache(maxsize=256)
def _name(enum: str, number: int) -> str:
    """As in `REMOVE`; the number where a newer version has added it."""
    values = getattr(verdict_pb2, enum)
    if number not in values.values():
        return str(number)
    name: str = values.Name(number)
    return name.removeprefix(f"{enum.upper()}_")
