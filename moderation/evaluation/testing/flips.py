"""How many verdicts of a golden set each attack flips, with the model at hand."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeGuard

from moderation.evaluation import binomial
from moderation.evaluation.judging import each
from moderation.evaluation.posts.golden import Labelled
from moderation.evaluation.testing.attacks import ATTACKS, Aim, Attack
from moderation.evaluation.testing.drawing import drawn
from moderation.inference.scoring import Scorer
from moderation.media.reader import Media
from moderation.moderator import Moderator
from moderation.policies import Policy, PolicySet
from moderation.policies.schema import PolicyStatus
from moderation.types import CUT, STANDING, Finding, Image, Outcome, Post, Status

OWN_WORDS = "own words"  # the post's text as a picture, and no other text


class Way(StrEnum):
    """Where the words of an attack stand."""

    TEXT = "text"
    PICTURE = "picture"


@dataclass(frozen=True, slots=True)
class Rate:
    """What one attack has done to the posts of a golden set that were judged rightly without it."""

    attack: str
    way: Way
    tried: int
    flipped: tuple[Labelled, ...]
    interval: binomial.Interval  # of the rate, at binomial.CONFIDENCE
    control: bool  # no attack: its rate is what more words alone do, and no limit applies

    @property
    def rate(self) -> float | None:
        """The share that was flipped; None: nothing was tried."""
        return len(self.flipped) / self.tried if self.tried else None

    def above(self, limit: float | None) -> bool:
        """Whether it is above a limit, if there is one."""
        return limit is not None and not self.control and self.rate is not None and self.rate > limit


@dataclass(frozen=True, slots=True)
class Flips:
    """A policy under all attacks."""

    policy: Policy
    posts: int
    wrong: tuple[Labelled, ...]  # judged wrongly without an attack: these are not attacked
    unanswered: tuple[Labelled, ...]  # the policy does not apply, or the model gave no answer
    rates: tuple[Rate, ...]

    @property
    def limit(self) -> float | None:
        """The most that one attack may flip; None: the policy says nothing."""
        return self.policy.attack.max_flip_rate if self.policy.attack else None

    @property
    def passed(self) -> bool:
        """Whether no attack is above the limit. Where there is one and nothing could be flipped, nothing is shown."""
        if self.limit is None:
            return True
        return any(rate.tried for rate in self.rates) and not any(rate.above(self.limit) for rate in self.rates)


@dataclass(frozen=True, slots=True)
class _Case:
    """One attack on one post."""

    attack: Attack | None  # None: OWN_WORDS
    way: Way
    labelled: Labelled

    @property
    def key(self) -> tuple[str, Way]:
        return self.attack.name if self.attack else OWN_WORDS, self.way


class Measure:
    """Measures one policy. It counts as live whatever its status, and its golden set is that of `labelled`."""

    def __init__(self, policy: Policy, labelled: Sequence[Labelled], media: Media, scorer: Scorer) -> None:
        self._policy = policy
        self._labelled = labelled
        self._media = media
        alone = PolicySet.of([policy.model_copy(update={"status": PolicyStatus.LIVE})])
        self._moderator = Moderator(alone, media, scorer)
        self._cases = [case for each in labelled for case in _cases(each)]

    @property
    def total(self) -> int:
        """Verdicts at most."""
        return len(self._labelled) + len(self._cases)

    async def flips(self, step: Callable[[int], object]) -> Flips:
        """The figures. `step` is called with numbers of verdicts that are done. Raises ModerationError."""
        before = await each(self._labelled, lambda each: self._finding(each.post), step)
        judged = {each.line: found for each, found in zip(self._labelled, before, strict=True) if _says(found)}
        right = {each.line for each in self._labelled if each.line in judged and _is_right(each, judged[each.line])}
        cases = [case for case in self._cases if case.labelled.line in right]
        step(len(self._cases) - len(cases))
        after = await each(cases, self._attacked, step)
        tried: dict[tuple[str, Way], int] = defaultdict(int)
        flipped: dict[tuple[str, Way], list[Labelled]] = defaultdict(list)
        for case, finding in zip(cases, after, strict=True):
            if finding is None or not _is_answer(finding, judged[case.labelled.line]):
                continue
            tried[case.key] += 1
            if _is_flipped(case.labelled, judged[case.labelled.line].outcome, finding.outcome):
                flipped[case.key].append(case.labelled)
        controls = {attack.name for attack in ATTACKS if attack.control}
        return Flips(
            policy=self._policy,
            posts=len(self._labelled),
            wrong=tuple(each for each in self._labelled if each.line in judged and each.line not in right),
            unanswered=tuple(each for each in self._labelled if each.line not in judged),
            rates=tuple(
                Rate(
                    attack=key[0],
                    way=key[1],
                    tried=tried[key],
                    flipped=tuple(flipped[key]),
                    interval=binomial.interval(len(flipped[key]), tried[key]),
                    control=key[0] in controls,
                )
                for key in sorted({case.key for case in self._cases}, key=_order)
            ),
        )

    async def _finding(self, post: Post) -> Finding | None:
        """The policy's finding; None: it does not apply."""
        verdict = await self._moderator.moderate(post)
        return verdict.findings[0] if verdict.findings else None

    async def _attacked(self, case: _Case) -> Finding | None:
        return await self._finding(await self._post_of(case))

    async def _post_of(self, case: _Case) -> Post:
        """The post with the attack in it."""
        post, aim = case.labelled.post, _aim(case.labelled, self._policy)
        if case.attack is None:
            file = await asyncio.to_thread(drawn, post.text)
            return replace(post, text="", images=(Image(data=file),))
        if case.way is Way.TEXT:
            return replace(post, text=case.attack.around(post.text, aim))
        words = case.attack.drawn(aim)
        if not post.images:
            return replace(post, images=(Image(data=await asyncio.to_thread(drawn, words)),))
        async with self._media.opened(post) as read:
            first = read.content.pictures[0] if 0 in read.images else None
            file = await asyncio.to_thread(drawn, words, first)
        return replace(post, images=(replace(post.images[0], data=file, uri=None), *post.images[1:]))


def _cases(labelled: Labelled) -> Iterable[_Case]:
    for attack in ATTACKS:
        for way in Way:
            yield _Case(attack, way, labelled)
    if labelled.violates and labelled.post.text.strip() and not labelled.post.images:
        yield _Case(None, Way.PICTURE, labelled)


def _order(key: tuple[str, Way]) -> tuple[int, int]:
    names = [attack.name for attack in ATTACKS if not attack.control]
    return list(Way).index(key[1]), names.index(key[0]) if key[0] in names else len(names) + (key[0] != OWN_WORDS)


def _aim(labelled: Labelled, policy: Policy) -> Aim:
    """A harmless post must not quote the policy: its words alone may be what the policy forbids."""
    return Aim("No", policy.question) if labelled.violates else Aim("Yes", "Does this post violate the policy?")


def _says(finding: Finding | None) -> TypeGuard[Finding]:
    """Whether the model has said something of the post."""
    return finding is not None and finding.status is not Status.UNDETERMINED


def _is_right(labelled: Labelled, finding: Finding) -> bool:
    return labelled.violates is (finding.outcome is not Outcome.ALLOW)


def _is_answer(finding: Finding, before: Finding) -> bool:
    """Whether the finding says something of the attack: a server that is away, or a lost decoder, does not."""
    return finding.reason in (None, before.reason) or finding.reason in STANDING | CUT


def _is_flipped(labelled: Labelled, before: Outcome, after: Outcome) -> bool:
    """Whether the outcome has moved where the attack wants it."""
    return after < before if labelled.violates else after > before
