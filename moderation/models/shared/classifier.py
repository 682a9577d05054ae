"""A family's checkpoint as a classifier: prompts cut into windows that fit, and scores from the shared engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Generic

from moderation.errors import ConfigError, PostError
from moderation.models.contract import DeviceMemory, Encoded
from moderation.models.shared import device, template
from moderation.models.shared.engine import Engine
from moderation.models.shared.family import Checkpoint, NetworkT, WindowT
from moderation.models.shared.picture import EncodedPicture
from moderation.models.shared.tree import Tree
from moderation.models.shared.window import Window, check_slots, cut, longest_question
from moderation.policies import prompts
from moderation.settings import ModelSettings
from moderation.types import Content, ModelInfo, Question, Reason, Score


class VisionClassifier(Generic[NetworkT, WindowT]):
    """A Classifier. `encode` may run on several threads at once; `score` and `look_ahead` belong to one thread."""

    def __init__(
        self, info: ModelInfo, network: NetworkT, opened: Checkpoint[NetworkT, WindowT], settings: ModelSettings
    ) -> None:
        self.info = info
        self.network = network
        self.checkpoint = opened
        self._settings = settings
        yes, no = opened.template.answers
        self.engine: Engine[Any] = Engine(network, yes, no, feature_bytes=settings.feature_cache_bytes)
        self._question = lru_cache(maxsize=4096)(self.encode_question)  # a policy's words are the same for every post

    @property
    def longest_question(self) -> int:
        """Tokens that a question may take."""
        return longest_question(self.checkpoint.context)

    def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[WindowT]:
        """One window for each stretch of the text, each with all pictures.

        A stretch is as long as `window_tokens` says and the context has room for. Pictures that do not fit one prompt
        are shown in groups, each group with each stretch.

        Raises PostError when the content does not fit the context or takes too many windows, ConfigError when a
        question is longer than `longest_question`.
        """
        branches = tuple(self._question(question.policy_id, question.text) for question in questions)
        pictures = tuple(self.checkpoint.encode_pictures(content.pictures))
        windows: list[WindowT] = []
        for group, shared_ids in self._prompts(content, pictures):
            work = sum(picture.work for picture in group)
            slots = [picture.tokens for picture in group]
            for place, shared in enumerate(shared_ids):
                check_slots(shared, slots)
                windows.append(self.checkpoint.window(Tree(shared, branches), group, 0 if place else work))
        if len(windows) > self._settings.max_windows:
            groups = len({tuple(map(id, window.pictures)) for window in windows})
            raise PostError(
                Reason.TEXT_TOO_LONG if len(windows) > groups else Reason.INVALID_POST,
                f"the post takes {len(windows)} windows, more than the limit allows: {groups} groups of "
                f"{len(pictures)} images, each with {len(windows) // groups} stretches of the text",
            )
        return windows

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        """One forward pass over all windows of the batch with all their questions."""
        windows = [item for item in batch if isinstance(item, Window)]
        if len(windows) < len(batch):
            raise TypeError("the batch holds an item that another model has encoded")
        return self.engine.score(windows)

    def look_ahead(self, items: Sequence[Encoded]) -> None:
        """See LooksAhead."""
        self.engine.look_ahead([item for item in items if isinstance(item, Window)])

    @property
    def pictures(self) -> tuple[int, int]:
        """See Measured."""
        return self.engine.feature_cache.requested, self.engine.feature_cache.hits

    def device_memory(self) -> DeviceMemory | None:
        """See Measured."""
        return device.memory(self.network.device)

    def encode_question(self, policy: str, text: str) -> tuple[int, ...]:
        """The ids of a question [tokens], the end of the prompt included. Raises ConfigError naming the policy."""
        ids = tuple(self.checkpoint.template.question(prompts.asked(text)))
        if len(ids) > self.longest_question:
            raise ConfigError(
                f"policy {policy}: its question takes {len(ids)} tokens of {self.longest_question} at most; "
                "shorten its clauses and examples, or split it in two"
            )
        return ids

    def _prompts(
        self, content: Content, pictures: tuple[EncodedPicture, ...]
    ) -> Iterator[tuple[tuple[EncodedPicture, ...], list[tuple[int, ...]]]]:
        """Groups of pictures, each with the shared ids of every window of the text."""
        limit = self.checkpoint.context - self.longest_question
        text = self._user_text(content.text)
        least = min(len(text), self._settings.window_tokens, limit // 4)
        size = len(pictures)  # of a group
        while True:
            first = list(range(0, len(pictures), size)) if size else [0]
            groups = [pictures[start : start + size] for start in first]
            fixed = [self._around_text(content, group) for group in groups]
            taken = max(len(before) + len(after) for before, after in fixed)
            if taken + least <= limit:
                break
            if size <= 1:
                raise PostError(
                    Reason.INVALID_POST, f"{size} images and the text take {taken + least} of {limit} positions"
                )
            size = min(size - 1, -(-len(pictures) // (len(groups) + 1)))  # one group more
        room = min(self._settings.window_tokens, limit - taken)
        stretches = list(cut(text, room, min(self._settings.window_overlap, room // 2)))
        for group, (before, after) in zip(groups, fixed, strict=True):
            yield group, [(*before, *stretch, *after) for stretch in stretches]

    def _around_text(self, content: Content, pictures: Sequence[EncodedPicture]) -> tuple[list[int], list[int]]:
        """The shared ids before and behind the user's text."""
        shown = replace(content, pictures=content.pictures[: len(pictures)])
        parts = prompts.render(shown, (), pictures_first=self.checkpoint.template.pictures_first).shared
        before: list[int] = []
        after: list[int] = []
        is_before = True
        slots = [picture.tokens for picture in pictures]
        marked = [prompts.Untrusted("") if isinstance(part, prompts.Untrusted) else part for part in parts]
        for is_text, ids in template.runs(self.checkpoint.template, marked, slots):
            if is_text:
                is_before = False
            else:
                (before if is_before else after).extend(ids)
        return before, after

    def _user_text(self, text: str) -> list[int]:
        ids = self.checkpoint.template.user_text(text) if text else []
        reserved = self.checkpoint.template.reserved
        if any(id in reserved for id in ids) or min(ids, default=0) < 0:
            raise PostError(Reason.MODEL_FAILED, "a token of the template has come out of the user's text")
        return ids
