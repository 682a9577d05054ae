"""Posts that may end the process, as recorded in the metadata of a partition's committed offset. Knows no Kafka.

Kafka delivers a post again after a crash, so one post that ends the process would end every worker, one after another.
The metadata of the committed offset survives the process:

1. Before the first post of an opening is processed, the metadata counts the opening. Progress clears the count, and
   then the metadata records only that the partition is open. A drain leaves no mark.
2. If an opening finds a count, the posts that may have been in hand at the crash are suspects. If it finds that the
   partition was left open, and at most FEW posts wait, these posts are suspects. Suspects are processed one at a time,
   each alone in the process. Before each suspect, the metadata records the attempt.
3. A post that was attempted alone ATTEMPTS times, and ended the process each time, is given up.

A worker that drains its posts, or that ends because of Kafka, removes what it has recorded.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

# One crash is no proof: a machine may fail, or hit a memory limit, while a harmless post runs alone. Two crashes in a
# row, in two processes, both between the record of the attempt and its end, are taken as proof.
ATTEMPTS = 2
FEW = 16  # suspects after a single crash; more would take too long, as most crashes are not caused by a post
STUCK_S = 5.0  # an attempt that a drain cuts after this time counts: a post that hangs must not come back for ever

_METADATA = re.compile(
    r"moderation/1 position=(\d{1,18}) openings=(\d{1,9}) until=(\d{1,18}) offset=(\d{1,18}) attempts=(\d{1,9})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Mark:
    """What earlier openings of a partition recorded in the metadata of its committed offset."""

    open: bool = False  # the partition was not drained
    openings: int = 0  # at this offset, with posts in hand and without progress since
    until: int = 0  # first offset that was not in hand; 0: unknown
    offset: int = 0  # of the post that was attempted alone; set only with attempts
    attempts: int = 0

    @classmethod
    def read(cls, metadata: str | None, position: int) -> Mark:
        """Returns the mark of this committed offset; an empty mark for metadata of other programs or another offset."""
        match = _METADATA.fullmatch(metadata or "")
        if match is None:
            return cls()
        at, *fields = (int(number) for number in match.groups())
        return cls(True, *fields) if at == position else cls()

    def metadata(self, position: int) -> str:
        """Returns the mark's part of the metadata (offset_metadata.py), at most 129 bytes; empty for an empty mark."""
        if not self.open:
            return ""
        return (
            f"moderation/1 position={position} openings={self.openings} until={self.until} "
            f"offset={self.offset} attempts={self.attempts}"
        )

    def suspected(self, position: int, end: int) -> Mark:
        """Returns the mark of an opening at this position with `until` set. `end`: of the partition."""
        if self.openings:
            return replace(self, until=self.until or end)
        return Mark(True, 1, end) if self.open and 0 < end - position <= FEW else self


OPEN = Mark(True)


class Suspects:
    """The suspects of one opening, and the mark to store with each commit."""

    def __init__(self, initial: Mark, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        """initial: the mark at the opening, with `until` set. limit: highest number of posts in hand of a partition."""
        self.initial = initial
        self._clock = clock
        self._left = limit if initial.openings else 0  # records that may still be delivered as suspects
        self._alone: set[int] = set()  # offsets of suspects that are delivered and not committed
        self._written = initial  # the mark of the last commit
        self._resting = initial  # the mark while no post is in hand
        self._now: Mark | None = None  # the mark while posts are in hand
        self._openings = initial.openings + 1  # at this offset, including this one
        self._begun = 0.0  # start of the current attempt
        self.counted = initial.openings > 0  # the metadata counts this opening, or there was progress

    def __contains__(self, offset: int) -> bool:
        """Whether this post must be processed alone."""
        return offset in self._alone

    def deliver(self, offset: int) -> None:
        """Adds a delivered record. Records come in the order of the partition."""
        if self._left and offset < self.initial.until:
            self._left -= 1
            self._alone.add(offset)
        else:
            self._left = 0

    def attempts(self, offset: int) -> int:
        """Returns how often earlier openings have attempted this post alone."""
        return self.initial.attempts if self.initial.offset == offset else 0

    def count(self) -> None:
        """Records that posts will be in hand."""
        self._now = self._now or Mark(True, self._openings)

    def attempt(self, offset: int) -> int:
        """Records that the post will be attempted alone. Returns the number of the attempt, from 1."""
        number = self.attempts(offset) + 1
        self._now = Mark(True, self._openings, self.initial.until, offset, number)
        self._begun = self._clock()
        return number

    def passed(self, offset: int) -> bool:
        """Records that the attempt has not ended the process. Returns whether to commit this before the outcome.

        It must be committed first if the next opening would give the post up: publishing may fail because of Kafka.
        """
        self._now = None
        number = self.attempts(offset) + 1
        if number <= ATTEMPTS:
            self._resting = replace(self._resting, offset=0, attempts=0)
        return number >= ATTEMPTS

    def mark(self, last: int | None) -> Mark:
        """Returns the mark to commit now. `last`: the last offset whose outcome the commit publishes, or None."""
        if last is not None:
            self.counted = True
            self._alone = {offset for offset in self._alone if offset > last}
            self._openings = 1
            remain = self._alone or (self._left and last + 1 < self.initial.until)
            self._resting = Mark(True, 1, self.initial.until) if remain else Mark()
            if self._now and not self._now.attempts:
                self._now = None
        return self._now or (self._resting if self._resting.open else OPEN)

    def written(self, mark: Mark) -> None:
        """Records that this mark is committed."""
        self._written = mark
        self.counted = self.counted or mark.openings > 0

    def at_drain(self) -> Mark | None:
        """Returns the mark to commit at the end of a drain, or None. A drain is not a crash.

        An attempt that was cut after STUCK_S stays recorded.
        """
        stuck = self._now is not None and self._now.attempts and self._clock() - self._begun >= STUCK_S
        left = self._resting if self._resting.openings else Mark()
        return None if stuck or self._written == left else left

    def at_crash(self, unsettled: int, reached: int) -> Mark | None:
        """Returns the mark to commit before an end that posts in hand may have caused, or None.

        unsettled: posts in hand without an outcome. reached: the first offset that was not delivered.
        """
        return None if self._written.openings or not 0 < unsettled <= FEW else Mark(True, 1, reached)
