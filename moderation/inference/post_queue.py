"""Encoded posts that wait for the device. Batches are filled oldest first.

- Time spent waiting in Kafka counts towards a post's age, but at most `overtake_s`, so that a backlog cannot delay new
  posts for ever.
- The next batch holds the oldest post of each partition. If they do not all fit, partitions take turns, so that full
  partitions do not delay the others.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, nsmallest
from itertools import chain, count

from moderation.models.checked import Item
from moderation.models.contract import Windows
from moderation.observability import phases, traces
from moderation.types import Arrival, Score

MAX_AHEAD = 64  # posts that are considered for the step after the next


@dataclass(eq=False, slots=True)
class Job:
    """A post between its encoding and its scores."""

    name: str  # equal for equal content
    windows: Windows[Item]
    queued: float
    done: asyncio.Future[float]  # when the last window was scored; done early: the caller left, or the post failed
    left: deque[int] = field(default_factory=deque)  # windows that no batch holds yet
    scores: dict[int, Sequence[Score]] = field(default_factory=dict)
    failed: bool = False  # no batch takes the post any more
    started: float | None = None
    post: phases.InHand | None = None  # only in the worker
    span: traces.SpanContext | None = None  # of the post, if it is recorded
    step: traces.SpanContext | None = None  # of the last step with a window of this post

    @property
    def tokens(self) -> int:
        """Tokens of the windows that no batch holds yet."""
        return sum(self.windows[window].tokens for window in self.left)

    @property
    def over(self) -> bool:
        """Whether the post needs no further step."""
        return self.failed or self.done.done()


Window = tuple[Job, int]  # one window of a post
_Place = tuple[float, int, int, Job]  # due time, number of the arrival, order of `put`, post


class PostQueue:
    """The queue of one batcher. Belongs to the event loop."""

    def __init__(self, budget: int, overtake_s: float) -> None:
        """budget: tokens of a batch. overtake_s: most seconds of waiting in Kafka that count towards a post's age."""
        self._budget = budget
        self._overtake_s = overtake_s
        self._queues: OrderedDict[int, list[_Place]] = OrderedDict()  # a heap for each partition; the next turn first
        self._arrivals = count()

    def __len__(self) -> int:
        """Posts with windows that no batch holds yet."""
        return sum(map(len, self._queues.values()))

    @property
    def waited(self) -> float:
        """Seconds that the oldest of them has waited; 0 if none waits."""
        first = min((job.queued for *_, job in chain(*self._queues.values())), default=None)
        return 0.0 if first is None else time.perf_counter() - first

    def put(self, job: Job, arrival: Arrival) -> None:
        """Adds a post at the place of its age."""
        due = min(max(arrival.written, arrival.polled - self._overtake_s), arrival.polled)
        heappush(self._queues.setdefault(arrival.partition, []), (due, arrival.number, next(self._arrivals), job))

    def take(self) -> list[Window]:
        """Removes and returns the next batch: the oldest post of each partition, and then the oldest of all.

        A post is split only if it is larger than the budget.
        """
        batch: list[Window] = []
        left = self._budget
        turns = deque(self._queues)
        while self._queues:
            partition = turns[0] if turns else min(self._queues, key=lambda number: self._queues[number][0])
            queue = self._queues[partition]
            job = queue[0][-1]
            if not job.over:
                if batch and left < job.tokens <= self._budget:
                    break
                while job.left and (not batch or job.windows[job.left[0]].tokens <= left):
                    window = job.left.popleft()
                    left -= job.windows[window].tokens
                    batch.append((job, window))
                if job.left:
                    break
                if turns:
                    self._queues.move_to_end(turns.popleft())
            heappop(queue)
            if not queue:
                del self._queues[partition]
                if turns and turns[0] == partition:
                    turns.popleft()
        return batch

    def next(self) -> list[Item]:
        """Returns what the batch after this one will probably hold. Removes nothing."""
        items: list[Item] = []
        left = self._budget
        first = [queue[0] for queue in self._queues.values()]
        oldest = nsmallest(MAX_AHEAD, chain(*self._queues.values()))
        for job in dict.fromkeys(job for *_, job in chain(first, oldest)):
            if (left := left - job.tokens) < 0:
                break
            items += [job.windows[window] for window in job.left]
        return items


def middle(batch: Sequence[Window]) -> int:
    """Returns where to halve a batch: between two posts if possible, so that each keeps its windows together."""
    middle = len(batch) // 2
    cuts = [cut for cut in range(1, len(batch)) if batch[cut - 1][0] is not batch[cut][0]]
    return min(cuts, key=lambda cut: abs(cut - middle), default=middle)
