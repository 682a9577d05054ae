"""Posts that are encoded and wait for the device, oldest first.

Time that a post waited in Kafka counts towards its age, but at most `overtake_s`, so that a backlog does not delay new
posts without end. Each partition that has posts here has its oldest in the next batch, or, where there is no room for
all of them, in its turn: full partitions do not keep the others waiting.
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
from moderation.observability import phases, traces
from moderation.types import Arrival, Score

MOST_AHEAD = 64  # posts that are looked at for the next step


@dataclass(eq=False, slots=True)
class Job:
    """A post between its encoding and its answer."""

    name: str  # the same for the same content
    windows: Sequence[Item]
    queued: float
    done: asyncio.Future[float]  # when the last window was scored; done early: the caller left, or the post failed
    left: deque[int] = field(default_factory=deque)  # windows that no step has taken yet
    scores: dict[int, Sequence[Score]] = field(default_factory=dict)
    failed: bool = False  # no step takes it any more
    started: float | None = None
    post: phases.InHand | None = None  # of the worker
    span: traces.SpanContext | None = None  # of the post, if it will be seen
    step: traces.SpanContext | None = None  # of the last step that it was in

    @property
    def tokens(self) -> int:
        return sum(self.windows[window].tokens for window in self.left)

    @property
    def over(self) -> bool:
        return self.failed or self.done.done()


Window = tuple[Job, int]  # one window of a post
_Place = tuple[float, int, int, Job]  # in a queue: the earlier first, then as they came


class PostQueue:
    """Belongs to the event loop."""

    def __init__(self, budget: int, overtake_s: float) -> None:
        """budget: tokens that a batch is filled up to. overtake_s: seconds by which a post may overtake."""
        self._budget = budget
        self._overtake_s = overtake_s
        self._queues: OrderedDict[int, list[_Place]] = OrderedDict()  # heaps, by partition; the next turn first
        self._came = count()

    def __len__(self) -> int:
        """Posts of which no step has taken all yet."""
        return sum(map(len, self._queues.values()))

    @property
    def waited(self) -> float:
        """Seconds that the longest of them has; 0 when there is none."""
        first = min((job.queued for *_, job in chain(*self._queues.values())), default=None)
        return 0.0 if first is None else time.perf_counter() - first

    def put(self, job: Job, arrival: Arrival) -> None:
        """Takes its place by age."""
        due = min(max(arrival.written, arrival.polled - self._overtake_s), arrival.polled)
        heappush(self._queues.setdefault(arrival.partition, []), (due, arrival.number, next(self._came), job))

    def take(self) -> list[Window]:
        """The next batch: whole posts, the oldest of each partition, and then the oldest of all.

        Only a post that no batch can hold whole is split.
        """
        batch: list[Window] = []
        room = self._budget
        turns = deque(self._queues)
        while self._queues:
            partition = turns[0] if turns else min(self._queues, key=lambda one: self._queues[one][0])
            queue = self._queues[partition]
            job = queue[0][-1]
            if not job.over:
                if batch and room < job.tokens <= self._budget:
                    break
                while job.left and (not batch or job.windows[job.left[0]].tokens <= room):
                    window = job.left.popleft()
                    room -= job.windows[window].tokens
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
        """What the batch after this one will probably hold."""
        items: list[Item] = []
        room = self._budget
        first = [queue[0] for queue in self._queues.values()]
        oldest = nsmallest(MOST_AHEAD, chain(*self._queues.values()))
        for job in dict.fromkeys(job for *_, job in chain(first, oldest)):
            if (room := room - job.tokens) < 0:
                break
            items += [job.windows[window] for window in job.left]
        return items


def middle(batch: Sequence[Window]) -> int:
    """Where to halve: between two posts where that is possible, so that each keeps its windows together."""
    middle = len(batch) // 2
    cuts = [cut for cut in range(1, len(batch)) if batch[cut - 1][0] is not batch[cut][0]]
    return min(cuts, key=lambda cut: abs(cut - middle), default=middle)
