"""Posts that may end the process: what a partition's committed offset remembers of them.

Kafka delivers a post again after a crash, so one post that ends the process would end every worker, one after another.
The metadata of the committed offset is where this is remembered, since it survives the process:

    1. Before the first post of an opening is processed, the metadata counts the opening. Progress clears the count;
       what is left says only that the partition is open. A drain leaves no metadata.
    2. An opening that finds a count has suspects: the posts that may have been in hand at the crash. So has one that
       finds that the partition was left open, if only FEW posts wait in it. Suspects are processed one at a time,
       each alone in the process. Before each, the metadata records the attempt.
    3. A post that was attempted alone ATTEMPTS times, and ended the process each time, is given up.

A worker that drains its posts, or that ends because of Kafka, takes back what it has recorded. Knows no Kafka.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

# One crash proves nothing: a machine fails, or a memory limit is hit, while an innocent post is alone. Two in a row,
# in two processes, both between the record of the attempt and its end, are taken as proof.
ATTEMPTS = 2
FEW = 16  # suspects because of one crash alone; more take too long, where most crashes have another cause than a post
STUCK_S = 5.0  # an attempt that a drain cuts off after this time counts as one: a post that hangs is drained for ever

_METADATA = re.compile(
    r"moderation/1 position=(\d{1,18}) openings=(\d{1,9}) until=(\d{1,18}) offset=(\d{1,18}) attempts=(\d{1,9})",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Mark:
    """What earlier openings of a partition have left in the metadata of its committed offset."""

    open: bool = False  # the partition was not drained
    openings: int = 0  # at this offset, with posts in hand and without progress
    until: int = 0  # first offset that was not in hand then; 0: unknown
    offset: int = 0  # of the post that was attempted alone; only where there are attempts
    attempts: int = 0

    @classmethod
    def read(cls, metadata: str | None, position: int) -> Mark:
        """The mark for this committed offset. An empty one for metadata that is not ours, or of another offset."""
        found = _METADATA.fullmatch(metadata or "")
        if found is None:
            return cls()
        at, *fields = (int(number) for number in found.groups())
        return cls(True, *fields) if at == position else cls()

    def metadata(self, position: int) -> str:
        """What is stored with this committed offset; empty for an empty mark. At most 129 bytes."""
        if not self.open:
            return ""
        return (
            f"moderation/1 position={position} openings={self.openings} until={self.until} "
            f"offset={self.offset} attempts={self.attempts}"
        )

    def suspected(self, position: int, end: int) -> Mark:
        """The mark for an opening at this position, of a partition that ends at `end`: `until` is known in it."""
        if self.openings:
            return replace(self, until=self.until or end)
        return Mark(True, 1, end) if self.open and 0 < end - position <= FEW else self


class Opening(NamedTuple):
    """Where a partition is opened."""

    position: int  # the first offset that is not answered
    mark: Mark = Mark()


OPEN = Mark(True)


class Suspects:
    """The suspects of one opening, and what its metadata should say."""

    def __init__(self, found: Mark, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """found: what the opening has found, with `until` set; most: posts that a partition has in hand at most."""
        self.found = found
        self._clock = clock
        self._left = most if found.openings else 0  # records that may still be delivered as suspects
        self._alone: set[int] = set()  # delivered, and not committed
        self._written = found
        self._resting = found  # the mark while no post is in hand
        self._now: Mark | None = None  # the mark because of posts in hand
        self._openings = found.openings + 1  # at this offset, this one included
        self._begun = 0.0  # when the attempt under way has
        self.counted = found.openings > 0  # the metadata counts this opening, or there was progress

    def __contains__(self, offset: int) -> bool:
        """Whether this post must be processed alone."""
        return offset in self._alone

    def deliver(self, offset: int) -> None:
        """A record that has come, in the order of the partition."""
        if self._left and offset < self.found.until:
            self._left -= 1
            self._alone.add(offset)
        else:
            self._left = 0

    def attempts(self, offset: int) -> int:
        """How often earlier openings have attempted this post alone."""
        return self.found.attempts if self.found.offset == offset else 0

    def count(self) -> None:
        """Posts are about to be in hand."""
        self._now = self._now or Mark(True, self._openings)

    def attempt(self, offset: int) -> int:
        """The post is about to be attempted alone. Returns the number of this attempt, from 1."""
        number = self.attempts(offset) + 1
        self._now = Mark(True, self._openings, self.found.until, offset, number)
        self._begun = self._clock()
        return number

    def passed(self, offset: int) -> bool:
        """The attempt has ended, and the process has not. Returns whether the metadata must say so first of all.

        It must where the next opening would give the post up: its outcome may fail to be published, by Kafka's fault.
        """
        self._now = None
        number = self.attempts(offset) + 1
        if number <= ATTEMPTS:
            self._resting = replace(self._resting, offset=0, attempts=0)
        return number >= ATTEMPTS

    def mark(self, answered: int | None) -> Mark:
        """What to commit now; `answered`: the last offset that the commit answers, if there is one."""
        if answered is not None:
            self.counted = True
            self._alone = {offset for offset in self._alone if offset > answered}
            self._openings = 1
            remain = self._alone or (self._left and answered + 1 < self.found.until)
            self._resting = Mark(True, 1, self.found.until) if remain else Mark()
            if self._now and not self._now.attempts:
                self._now = None
        return self._now or (self._resting if self._resting.open else OPEN)

    def written(self, mark: Mark) -> None:
        """It is committed."""
        self._written = mark
        self.counted = self.counted or mark.openings > 0

    def at_drain(self) -> Mark | None:
        """What to commit at the end of a drain, which is no crash; None: nothing.

        An attempt that was cut off after STUCK_S stays recorded.
        """
        stuck = self._now is not None and self._now.attempts and self._clock() - self._begun >= STUCK_S
        left = self._resting if self._resting.openings else Mark()
        return None if stuck or self._written == left else left

    def at_crash(self, unsettled: int, reached: int) -> Mark | None:
        """What to commit before an end that posts in hand may have caused; None: nothing.

        unsettled: posts in hand without an outcome; reached: the first offset that was not delivered.
        """
        return None if self._written.openings or not 0 < unsettled <= FEW else Mark(True, 1, reached)
