"""A model's double: the same contract without torch. A test writes the scores into the post.

These words in a post's text, separated by blanks, set its scores:

    violates:<policy id>   Yes
    unsure:<policy id>     as much Yes as No
    mute:<policy id>       neither: the mass of the two answers is next to nothing

The score of any other post and policy is No. A worker loads it by the name `fake`, with options as in
`fake?step_ms=20&raise_on=poison`.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl

from moderation.errors import ConfigError, DeviceError
from moderation.models.contract import Encoded, Windows
from moderation.models.spread import spread
from moderation.settings import ModelSettings
from moderation.types import Content, ModelInfo, Problem, Question, Reason, Score

PICTURE_TOKENS = 16
SURE = 8.0  # the margin of Yes; that of No is -SURE


@dataclass(frozen=True, slots=True)
class FakeEncoded:
    """One post with its questions. `tokens`: words of the text and of the questions, PICTURE_TOKENS a picture."""

    text: str
    policies: tuple[str, ...]
    tokens: int


class Fake:
    """A Classifier whose scores follow from the words of the post.

    step_ms: how long each step takes. raise_on: a step with this text in a post raises RuntimeError. dies_on: the same
    with DeviceError. oom_above: a step of more posts raises MemoryError; 0: no step does. nonce: the mass of a score is
    different each time and decides nothing, which shows whether a post was judged twice. cut: words of a window, and
    how many windows there are at most; no word: a text is one window, however long.
    """

    def __init__(
        self,
        *,
        step_ms: float = 0.0,
        raise_on: str = "",
        dies_on: str = "",
        oom_above: int = 0,
        nonce: bool = False,
        cut: tuple[int, int] = (0, 16),
    ) -> None:
        self.info = ModelInfo(
            name="fake",
            revision="",
            digest=hashlib.sha256(b"moderation.models.fake 1").hexdigest(),
            caution="fake model: words in the post set the scores",
        )
        self.step_ms = step_ms
        self.raise_on = raise_on
        self.dies_on = dies_on
        self.oom_above = oom_above
        self.nonce = nonce
        self.window_words, self.max_windows = cut

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
        policies = tuple(question.policy_id for question in questions)
        fixed = sum(_words(question.text) for question in questions) + PICTURE_TOKENS * len(content.pictures)
        texts = self._texts(content.text)
        kept = [texts[place] for place in spread(len(texts), self.max_windows)]
        problems = (Problem(Reason.TEXT_TOO_LONG, "text"),) if len(kept) < len(texts) else ()
        return Windows([FakeEncoded(text, policies, max(1, fixed + len(text.split()))) for text in kept], problems)

    def _texts(self, text: str) -> Sequence[str]:
        words, size = text.split(), self.window_words
        if not size or len(words) <= size:
            return [text]
        return [" ".join(words[at : at + size]) for at in range(0, len(words), size)]

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        items = [item for item in batch if isinstance(item, FakeEncoded)]
        if len(items) < len(batch):
            raise TypeError("the batch holds an item that another model has encoded")
        if self.step_ms:
            time.sleep(self.step_ms / 1000)
        if self.dies_on and any(self.dies_on in item.text for item in items):
            raise DeviceError("the fake's device has failed, as dies_on asked")
        if self.oom_above and len(batch) > self.oom_above:
            raise MemoryError(f"a step of {len(batch)} posts is above the fake's oom_above={self.oom_above}")
        if self.raise_on and any(self.raise_on in item.text for item in items):
            raise RuntimeError("the fake has failed on a post, as raise_on asked")
        return [self._scores(item) for item in items]

    def _scores(self, item: FakeEncoded) -> list[Score]:
        words = frozenset(item.text.split())
        return [_score(words, policy, self.nonce) for policy in item.policies]


@lru_cache(maxsize=1024)
def _words(question: str) -> int:
    return len(question.split())


def _score(words: frozenset[str], policy: str, nonce: bool) -> Score:
    margin = SURE if f"violates:{policy}" in words else -SURE
    if f"unsure:{policy}" in words:
        margin = 0.0
    mass = 0.01 if f"mute:{policy}" in words else 0.99
    if nonce:
        mass *= random.uniform(0.95, 1.0)  # noqa: S311  no secret
    return Score(probability=1 / (1 + math.exp(-margin)), margin=margin, mass=mass)


def load(settings: ModelSettings) -> Fake:
    """The fake with the options in its name. Raises ConfigError for an option that it does not have."""
    options = dict(parse_qsl(settings.name.partition("?")[2], keep_blank_values=True))
    try:
        fake = Fake(
            step_ms=float(options.pop("step_ms", 0)),
            raise_on=options.pop("raise_on", ""),
            dies_on=options.pop("dies_on", ""),
            oom_above=int(options.pop("oom_above", 0)),
            nonce=bool(int(options.pop("nonce", 0))),
            cut=(int(options.pop("window_words", 0)), settings.max_windows),
        )
    except ValueError as error:
        raise ConfigError(f"model name {settings.name!r}: {error}") from None
    if options:
        raise ConfigError(
            f"model name {settings.name!r}: the fake has no option {', '.join(sorted(options))}; "
            "it has step_ms, raise_on, dies_on, oom_above, nonce, window_words"
        )
    return fake
