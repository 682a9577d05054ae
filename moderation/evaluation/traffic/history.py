"""The history of policies: which version of each was in use when, as the verdicts of past traffic name it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = ("model", "model_digest", "policy_set", "findings")  # besides `written_at`
FIELDS = ("policy", "version", "score_digest", "review", "remove", "mass_threshold", "counts", "certificate")


class Version(NamedTuple):
    """What was in use. Any difference is another version."""

    policy: str
    version: int
    score_digest: str  # empty: an older version of this service wrote the verdicts
    review: float
    remove: float
    mass: float
    counts: bool  # False: in shadow
    certificate: str  # id; empty: none held
    model: str
    model_digest: str
    policy_set: str


@dataclass(frozen=True, slots=True)
class Use:
    """A period in which a version was in use."""

    version: Version
    begins: datetime  # of the first verdict
    ends: datetime  # of the last one
    verdicts: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """A version in one hour."""

    first: datetime
    last: datetime
    verdicts: int


class History:
    """Collects what verdicts name, an hour at a time: it grows with hours and versions, not with verdicts."""

    def __init__(self) -> None:
        self._hours: dict[str, dict[datetime, dict[Version, _Seen]]] = defaultdict(lambda: defaultdict(dict))

    def add(self, batch: pa.RecordBatch) -> None:
        """Adds the verdicts of a batch with COLUMNS and `written_at`."""
        lists = batch.column("findings")
        flat = lists.flatten()
        if not len(flat):
            return
        row = pc.list_parent_indices(lists)
        columns = {name: _plain(flat.field(name)) for name in FIELDS}
        columns |= {name: _plain(batch.column(name)).take(row) for name in COLUMNS[:3]}
        written = batch.column("written_at").take(row)
        columns |= {"written_at": written, "hour": pc.floor_temporal(written, unit="hour")}
        keys = [*FIELDS, *COLUMNS[:3], "hour"]
        grouped = pa.table(columns).group_by(keys, use_threads=False)
        for found in grouped.aggregate([("written_at", "min"), ("written_at", "max"), ([], "count_all")]).to_pylist():
            self._see(found)

    def uses(self) -> Mapping[str, Sequence[Use]]:
        """By policy, in the order of their begins. A version that comes back begins a new period."""
        return {policy: _uses(hours) for policy, hours in sorted(self._hours.items())}

    def _see(self, found: Mapping[str, Any]) -> None:
        version = Version(*(found[name] for name in (*FIELDS, *COLUMNS[:3])))
        seen = _Seen(found["written_at_min"], found["written_at_max"], found["count_all"])
        versions = self._hours[version.policy][found["hour"]]
        if before := versions.get(version):
            first, last = min(before.first, seen.first), max(before.last, seen.last)
            seen = _Seen(first, last, before.verdicts + seen.verdicts)
        versions[version] = seen


def _uses(hours: Mapping[datetime, Mapping[Version, _Seen]]) -> list[Use]:
    """Joins hours: a period ends with an hour in which the policy has verdicts, and none of this version."""
    done: list[Use] = []
    running: dict[Version, Use] = {}
    for _, versions in sorted(hours.items()):
        done += [running.pop(version) for version in [*running] if version not in versions]
        for version, seen in versions.items():
            if use := running.get(version):
                running[version] = replace(use, ends=seen.last, verdicts=use.verdicts + seen.verdicts)
            else:
                running[version] = Use(version, seen.first, seen.last, seen.verdicts)
    return sorted([*done, *running.values()], key=lambda use: (use.begins, use.ends, use.version))


def of(batches: Iterable[pa.RecordBatch]) -> Mapping[str, Sequence[Use]]:
    """The history that verdicts show, by policy."""
    history = History()
    for batch in batches:
        history.add(batch)
    return history.uses()


def _plain(column: pa.Array) -> pa.Array:
    """Words in place of codes: batches have codes of their own."""
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
