"""A family's checkpoint as a classifier: prompts cut into windows that fit, and scores from the shared engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Generic

from moderation.errors import ConfigError, PostError
from moderation.models.contract import DeviceMemory, Encoded, Windows, picture_path
from moderation.models.shared import device, template
from moderation.models.shared.engine import Engine
from moderation.models.shared.family import Checkpoint, NetworkT, WindowT
from moderation.models.shared.picture import EncodedPicture
from moderation.models.shared.tree import Tree
from moderation.models.shared.user_text import UserText
from moderation.models.shared.window import Window, check_slots, longest_question
from moderation.models.spread import kept
from moderation.policies import prompts
from moderation.settings import ModelSettings
from moderation.types import Content, ModelInfo, Problem, Question, Reason, Score

TEXT, IMAGES = "text", "images"  # paths of a post
SHORTEST = 64  # tokens of a text; a picture that leaves less is not shown


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures that share a prompt, and the ids around the user's text."""

    pictures: tuple[EncodedPicture, ...]
    before: Sequence[int]
    after: Sequence[int]

    @property
    def taken(self) -> int:
        """Positions that are not the text's."""
        return len(self.before) + len(self.after)


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

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[WindowT]:
        """One window for each stretch of the text, each with all pictures.

        A stretch is as long as `window_tokens` says and the context has room for. Pictures that do not fit one prompt
        are shown in groups, each group with each stretch. `kept` says what `max_windows` leaves of both.

        Raises PostError when nothing of the content can be shown, ConfigError when a question is longer than
        `longest_question`.
        """
        branches = tuple(self._question(question.policy_id, question.text) for question in questions)
        pictures, problems = self._pictures(content)
        text = UserText(content.text, self._user_text, self._settings)
        least = min(len(text), self._settings.window_tokens, self._limit // 4)
        groups = self._groups(content, [*pictures.values()], least)
        if groups is None:
            least = min(least, SHORTEST)
            large = [n for n, picture in pictures.items() if self._groups(content, [picture], least) is None]
            problems += [Problem(Reason.IMAGE_TOO_LARGE, picture_path(number)) for number in large]
            _check_rest(content, len(pictures) - len(large), problems)
            groups = self._groups(content, [picture for n, picture in pictures.items() if n not in large], least)
        if groups is None:
            raise PostError(Reason.MODEL_FAILED, f"the context of {self.checkpoint.context} leaves no room for a text")
        room = min(self._settings.window_tokens, self._limit - max(group.taken for group in groups))
        stretches = text.stretches(room)
        first, some = kept(len(groups), stretches, self._settings.max_windows)
        if first < len(groups):
            problems.append(Problem(Reason.TOO_MANY_IMAGES, IMAGES))
        if some < stretches:
            problems.append(Problem(Reason.TEXT_TOO_LONG, TEXT))
        shown = text.some(room, some)
        windows = [window for group in groups[:first] for window in self._windows(group, shown, branches)]
        return Windows(windows, tuple(problems))

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

    @property
    def _limit(self) -> int:
        """Positions for all but the questions."""
        return self.checkpoint.context - self.longest_question

    def _pictures(self, content: Content) -> tuple[dict[int, EncodedPicture], list[Problem]]:
        """The pictures that can be encoded, by their numbers, and why others cannot. Raises PostError as `encode`."""
        try:
            return dict(enumerate(self.checkpoint.encode_pictures(content.pictures))), []
        except PostError:
            good, problems = [], []
        for number, picture in enumerate(content.pictures):
            try:
                self.checkpoint.encode_pictures([picture])
            except PostError as error:
                problems.append(Problem(error.reason, picture_path(number)))
            else:
                good.append(number)
        _check_rest(content, len(good), problems)
        encoded = self.checkpoint.encode_pictures([content.pictures[number] for number in good])
        return dict(zip(good, encoded, strict=True)), problems

    def _groups(self, content: Content, pictures: Sequence[EncodedPicture], least: int) -> Sequence[Group] | None:
        """The pictures in as few groups as leave `least` tokens for the text; None if one leaves less by itself."""
        size = len(pictures)  # of a group
        while True:
            first = list(range(0, len(pictures), size)) if size else [0]
            parts = [tuple(pictures[start : start + size]) for start in first]
            try:
                groups = [Group(part, *self._around_text(content, part)) for part in parts]
                if max(group.taken for group in groups) + least <= self._limit:
                    return groups
            except PostError as error:
                if error.reason is not Reason.TOO_MANY_IMAGES or size <= 1:  # the template takes fewer in one prompt
                    raise
            if size <= 1:
                return None
            size = min(size - 1, -(-len(pictures) // (len(parts) + 1)))  # one group more

    def _windows(
        self, group: Group, stretches: Sequence[list[int]], branches: tuple[tuple[int, ...], ...]
    ) -> Iterator[WindowT]:
        """A window for each stretch."""
        slots = [picture.tokens for picture in group.pictures]
        work = sum(picture.work for picture in group.pictures)
        for place, stretch in enumerate(stretches):
            shared = (*group.before, *stretch, *group.after)
            check_slots(shared, slots)
            yield self.checkpoint.window(Tree(shared, branches), group.pictures, 0 if place else work)

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


def _check_rest(content: Content, pictures: int, problems: Sequence[Problem]) -> None:
    """Raises PostError if pictures cannot be shown, and nothing else of the content is left."""
    if problems and not pictures and not content.text:
        raise PostError(problems[0].reason, "the model can take no picture of the post", path=IMAGES)
