"""Which verdict of a period is the newest of its post: of one partition the last, of several the latest post's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from moderation import wire
from moderation.kafka.records import Record
from moderation.types import Verdict


class Newest:
    """Fed with the records of the verdicts topic: those of the period, those after it, and those of the period again.

    Each time in the order of each partition. An erasure that was copied to other partitions erases posts up to the time
    in its header; in its own partition it erases what stands before it.
    """

    def __init__(self) -> None:
        self.found = 0  # verdicts of the period
        self.erased: set[bytes] = set()  # keys of posts, so far
        self.replaced: set[bytes] = set()  # of posts with a newer verdict, so far, that is not of the period
        self.unreadable = 0
        self._places: dict[bytes, tuple[int, int]] = {}  # partition and offset of the newest verdict, by key
        self._contested: dict[bytes, dict[int, int]] = {}  # of keys on several partitions: offset, by partition
        self._erasures: dict[bytes, dict[int, int]] = defaultdict(dict)  # latest time, by partition
        self._rivals: dict[bytes, int] = {}  # time of the latest post with a verdict after the period elsewhere
        self._held: dict[bytes, list[Verdict]] = defaultdict(list)  # of contested keys

    def add(self, record: Record, *, within: bool) -> None:
        """Takes a record among those of the period. within: its time is in the period, too."""
        key = record.key or b""
        if record.value is None:
            self._erase(key, record)
        elif not within:
            self._replace(key, record)
        else:
            self.found += 1
            self.erased.discard(key)
            self.replaced.discard(key)
            place = self._places.get(key)
            if key in self._contested:
                self._contested[key][record.partition] = record.offset
            elif place is not None and place[0] != record.partition:
                self._contested[key] = {place[0]: place[1], record.partition: record.offset}
                del self._places[key]
            else:
                self._places[key] = record.partition, record.offset

    def add_later(self, record: Record) -> None:
        """Takes a record after the period. It matters where the period has a verdict on its post."""
        key = record.key or b""
        if key in self._places or key in self._contested:
            if record.value is None:
                self._erase(key, record)
            else:
                self._replace(key, record)

    def verdict(self, record: Record) -> Verdict | None:
        """The verdict in a record of the period, if it is known by now that it stands."""
        key = record.key or b""
        contested = self._contested.get(key, {}).get(record.partition) == record.offset
        if record.value is None or not (contested or self._places.get(key) == (record.partition, record.offset)):
            return None
        try:
            verdict = wire.verdict_from_message(wire.read_verdict(record.value, record.headers))
        except ValueError:
            self.unreadable += 1
            return None
        if contested:
            self._held[key].append(verdict)
            return None
        return verdict if self._stands(key, record.partition, verdict) else None

    def contested(self) -> Iterator[Verdict]:
        """The verdicts that stand on posts with verdicts in several partitions."""
        for key, verdicts in self._held.items():
            latest = max(verdicts, key=_written_ms)
            if self._stands(key, latest.source.partition if latest.source else -1, latest):
                yield latest

    def _stands(self, key: bytes, partition: int, verdict: Verdict) -> bool:
        written = _written_ms(verdict)
        elsewhere = [at_ms for number, at_ms in self._erasures.get(key, {}).items() if number != partition]
        if written <= max(elsewhere, default=-1):
            self.erased.add(key)
            return False
        if written < self._rivals.get(key, -1):
            self.replaced.add(key)
            return False
        return True

    def _erase(self, key: bytes, record: Record) -> None:
        at_ms = wire.erased_at(record.headers)
        self._erasures[key][record.partition] = record.timestamp if at_ms is None else at_ms
        if self._forget(key, record.partition):
            self.erased.add(key)

    def _replace(self, key: bytes, record: Record) -> None:
        if self._forget(key, record.partition):
            self.replaced.add(key)
        elif key in self._places or key in self._contested:
            try:
                written = wire.read_verdict(record.value or b"", record.headers).source.timestamp.ToMilliseconds()
            except ValueError:
                return
            self._rivals[key] = max(written, self._rivals.get(key, -1))

    def _forget(self, key: bytes, partition: int) -> bool:
        """Forgets the verdict in this partition. Returns whether the post has none left."""
        if self._places.get(key, (-1, 0))[0] == partition:
            del self._places[key]
            return True
        if partition in self._contested.get(key, {}):
            del self._contested[key][partition]
            if not self._contested[key]:
                del self._contested[key]
                return True
        return False


def _written_ms(verdict: Verdict) -> int:
    return verdict.source.timestamp_ms if verdict.source else verdict.decided_at_ms
