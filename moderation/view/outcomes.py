"""How far the records of the posts topic have their outcomes, in each life of that topic."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

import structlog

from moderation.view.lives import Lives
from moderation.view.stores import Progress

PAST = 8  # lives of the topic that are remembered

log = structlog.get_logger()


class Reach(Enum):
    """What is known of the outcomes up to a position of the posts topic."""

    AHEAD = "some are to come"
    REACHED = "all are folded in"
    GONE = "the topic was deleted, and as far as is known some never came"


class Judged(NamedTuple):
    """That a record of the posts topic has its outcome."""

    partition: int
    offset: int
    topic_id: str  # of the posts topic; empty: not known


class Outcomes:
    """The highest offset of each partition whose outcome is known."""

    def __init__(self, lives: Lives, topic: str) -> None:
        self._lives = lives
        self._topic = topic
        self._now: dict[int, Progress] = {}
        self._past: OrderedDict[str, dict[int, int]] = OrderedDict()  # by id and partition: highest offset

    @property
    def decided(self) -> dict[int, int]:
        """By partition: the highest offset whose outcome is known, in the latest life that has one; -1: none."""
        return {number: at.decided for number, at in self._now.items()}

    def reach(self, posts: Mapping[int, int], topic_id: str = "") -> Reach:
        """What is known up to these offsets, by partition. An empty topic_id: of the topic that exists now."""
        current = self._lives.id(self._topic)
        life = topic_id or current
        if all(self._decided(number, life, current) >= offset for number, offset in posts.items()):
            return Reach.REACHED
        return Reach.GONE if self._lives.is_past(self._topic, life) else Reach.AHEAD

    def take(self, progress: Mapping[int, Progress]) -> None:
        """Takes the progress of a view. What it replaces of earlier lives is remembered."""
        for number, at in self._now.items():
            if at.posts_id and number in progress and progress[number].posts_id != at.posts_id:
                self._remember(at.posts_id, number, at.decided)
        self._now = dict(progress)

    def advanced(self, outcomes: Iterable[Judged]) -> dict[int, Progress]:
        """The progress once these outcomes are folded in, in their order. `next` stays.

        An outcome without an id counts for the life that its partition has reached. One of an earlier life is late: a
        worker had that post in hand when its topic was deleted.
        """
        after = dict(self._now)
        for number, offset, id in outcomes:
            at = after.get(number)
            if at is None:
                continue
            if id in ("", at.posts_id):
                after[number] = at._replace(decided=max(at.decided, offset))
            elif at.posts_id and (id in self._past or self._lives.is_past(self._topic, id)):
                self._remember(id, number, offset)
            else:
                if at.posts_id:
                    self._remember(at.posts_id, number, at.decided)
                after[number] = at._replace(decided=offset, posts_id=id)
        return after

    def renewed(self) -> dict[int, Progress]:
        """The progress now that the posts topic is another one: it has no outcomes yet. `next` stays."""
        current = self._lives.id(self._topic)
        return {
            number: at if at.posts_id == current else at._replace(decided=-1, posts_id=current)
            for number, at in self._now.items()
        }

    def checked(self, ends: Mapping[int, int]) -> dict[int, Progress]:
        """The progress, where the posts topic that exists now has these ends, by partition. `next` stays.

        Outcomes without an id are of this topic, as far as is known: older versions wrote them. Those beyond its end
        are of one that was deleted.
        """
        current, after = self._lives.id(self._topic), dict(self._now)
        for number, at in self._now.items():
            if not at.posts_id:
                gone = at.decided >= ends.get(number, at.decided + 1)
                after[number] = at._replace(decided=-1 if gone else at.decided, posts_id=current)
                if gone:
                    log.warning("posts_topic_recreated", partition=number, decided=at.decided, end=ends[number])
        return after

    def _decided(self, number: int, life: str, current: str) -> int:
        at = self._now.get(number)
        if at is not None and (not current or life == at.posts_id or (not at.posts_id and life == current)):
            return max(at.decided, self._past.get(life, {}).get(number, -1))
        return self._past.get(life, {}).get(number, -1)

    def _remember(self, id: str, number: int, offset: int) -> None:
        past = self._past.setdefault(id, {})
        past[number] = max(offset, past.get(number, -1))
        while len(self._past) > PAST:
            self._past.popitem(last=False)
