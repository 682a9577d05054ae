"""Phi-3-Vision and Phi-3.5-Vision as a classifier: the published template around the service's prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import PIL.Image
import structlog

from moderation.errors import ConfigError, PostError
from moderation.models.contract import DeviceMemory, Encoded
from moderation.models.phi3.network import (
    LONG,
    PREPROCESSOR,
    SHORT,
    Phi3Config,
    Phi3Network,
    PreprocessorConfig,
    read,
)
from moderation.models.phi3.preprocessing import Crops
from moderation.models.shared import checkpoint, compiled, device, fp8
from moderation.models.shared.compiled import Compiled
from moderation.models.shared.engine import Engine, Part
from moderation.models.shared.tokenizer import TOKENIZER, Tokenizer
from moderation.models.shared.tree import Tree
from moderation.policies import prompts
from moderation.policies.prompts import Slot, Trusted, Untrusted
from moderation.settings import ModelSettings
from moderation.types import Content, ModelInfo, Question, Reason, Score

OPEN = "<|user|>\n"
CLOSE = "<|end|>\n<|assistant|>\n"

LONGEST_BRANCH = 1024  # tokens of a question

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One window of a post's text, its pictures and all its questions. In the ids of `tree`, -i is picture i's, from 1.

    Windows of one post share the Crops objects, so features are computed once when the windows meet in a batch.
    """

    tree: Tree
    pictures: tuple[Crops, ...]
    context: int  # positions beyond which a prompt takes the long rope factors
    picture_work: int = 0  # the tower's, in tokens of the decoder; 0 in all windows of a post but the first

    @property
    def tokens(self) -> int:
        return sum(part.tree.tokens for part in self.parts) + self.picture_work

    @property
    def parts(self) -> list[Part]:
        """One part, or two when only some of the questions make a prompt that is longer than the context.

        Each question takes the rope factors that its prompt would take alone: neither other posts nor other policies
        change its score. In the original, the longest sequence of a batch chooses the factors for all.
        """
        rest = self.context - len(self.tree.shared)
        if not self.tree.branches:
            return [Part(self.tree, [], LONG if rest < 0 else SHORT)]
        questions: dict[int, list[int]] = {SHORT: [], LONG: []}
        for place, branch in enumerate(self.tree.branches):
            questions[LONG if len(branch) > rest else SHORT].append(place)
        return [
            Part(Tree(self.tree.shared, tuple(self.tree.branches[place] for place in places)), places, variant)
            for variant, places in questions.items()
            if places
        ]


def picture_work(pictures: Iterable[Crops], config: Phi3Config) -> int:
    """The tower's work for the pictures of a post, in tokens of the decoder."""
    return sum(map(len, pictures)) * config.crop_work


class Phi3Vision:
    """A Classifier. `encode` may run on several threads at once; `score` and `look_ahead` belong to one thread."""

    def __init__(
        self,
        info: ModelInfo,
        network: Phi3Network,
        tokenizer: Tokenizer,
        preprocessor: PreprocessorConfig,
        settings: ModelSettings,
    ) -> None:
        self.info = info
        self.network = network
        self.tokenizer = tokenizer
        self._transform = preprocessor.transform(network.config, settings.num_crops)
        self._settings = settings
        self.engine: Engine[Crops] = Engine(
            network, tokenizer.word("Yes"), tokenizer.word("No"), feature_bytes=settings.feature_cache_bytes
        )
        self._branch = lru_cache(maxsize=4096)(self.encode_branch)  # a policy's words are the same for every post

    def encode(self, content: Content, questions: Sequence[Question]) -> Sequence[Window]:
        """One window for each stretch of `window_tokens` of the text, each with all pictures.

        Raises PostError when the content does not fit the context, ConfigError when a question is longer than
        LONGEST_BRANCH.
        """
        prompt = prompts.render(content, questions)
        branches = tuple(
            self._branch(question.policy_id, text) for question, text in zip(questions, prompt.branches, strict=True)
        )
        pictures = tuple(self._transform.crops(picture) for picture in content.pictures)
        slots = [picture.tokens for picture in pictures]
        trees = [Tree(shared, branches) for shared in self.windows(prompt.shared, slots)]
        limit = self.network.config.max_position_embeddings - LONGEST_BRANCH
        for tree in trees:
            _check_slots(tree.shared, slots)
            if len(tree.shared) > limit:
                raise PostError(
                    Reason.INVALID_POST,
                    f"{len(pictures)} images and the text take {len(tree.shared)} of {limit} positions",
                )
        context = self.network.config.original_max_position_embeddings
        work = picture_work(pictures, self.network.config)
        return [Window(tree, pictures, context, 0 if place else work) for place, tree in enumerate(trees)]

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

    def memory(self) -> DeviceMemory | None:
        """See Measured."""
        return device.memory(self.network.device)

    def encode_branch(self, policy: str, text: str) -> tuple[int, ...]:
        """The ids of a question [tokens], the end of the turn included. Raises ConfigError naming the policy."""
        ids = tuple(self.tokenizer.trusted(text + CLOSE))
        if len(ids) > LONGEST_BRANCH:
            raise ConfigError(
                f"policy {policy}: its question takes {len(ids)} tokens of {LONGEST_BRANCH} at most; "
                "shorten its clauses and examples, or split it in two"
            )
        return ids

    def windows(self, parts: Iterable[prompts.Part], slots: Sequence[int]) -> Iterator[tuple[int, ...]]:
        """The shared ids [tokens] of each window of the user's text. slots: how many tokens each picture takes.

        Raises PostError when there are too many windows, or when the user's text yields a token of the template.
        """
        before: list[int] = []
        text: list[int] | None = None
        after: list[int] = []
        for is_text, ids in self._runs(parts, slots):
            if not is_text:
                (before if text is None else after).extend(ids)
            elif text is None:
                text = ids
            else:
                raise ValueError("a prompt with two texts of the user cannot be cut into windows")
        windows = list(cut(text or [], self._settings.window_tokens, self._settings.window_overlap))
        if len(windows) > self._settings.max_windows:
            raise PostError(Reason.TEXT_TOO_LONG, f"the text takes {len(windows)} windows, more than the limit allows")
        for window in windows:
            yield (*before, *window, *after)

    def _runs(self, parts: Iterable[prompts.Part], slots: Sequence[int]) -> Iterator[tuple[bool, list[int]]]:
        """(whether it is the user's text, ids) of the shared parts in order.

        Tokenised as the published processor does: everything between two pictures is one chunk and starts with <s>.
        Only the user's text is tokenised on its own.
        """
        chunk, begin = OPEN, True
        for part in parts:
            if isinstance(part, Trusted):
                chunk += part.text
                continue
            if chunk or begin:
                yield False, self.tokenizer.trusted(chunk, begin=begin)
            chunk, begin = "", isinstance(part, Slot)
            if isinstance(part, Slot):
                yield False, [-1 - part.picture] * slots[part.picture]
            else:
                yield True, self._untrusted(part)
        if chunk or begin:
            yield False, self.tokenizer.trusted(chunk, begin=begin)

    def _untrusted(self, part: Untrusted) -> list[int]:
        ids = self.tokenizer.untrusted(part.text)
        if not self.tokenizer.added.isdisjoint(ids) or min(ids, default=0) < 0:
            raise PostError(Reason.MODEL_FAILED, "a token of the template has come out of the user's text")
        return ids


def load(settings: ModelSettings) -> Phi3Vision:
    """The model of the settings on its device. Raises ConfigError naming what in its folder is wrong."""
    where, dtype = device.place(settings)
    folder, revision = checkpoint.locate(settings.name, settings.revision)
    named = (checkpoint.CONFIG, PREPROCESSOR, TOKENIZER)
    files = [*(folder / name for name in named), *checkpoint.weight_files(folder)]
    checkpoint.expect(files, settings.digest)
    preprocessor = checkpoint.parse(folder / PREPROCESSOR, PreprocessorConfig)
    tokenizer = Tokenizer(folder)
    with device.faults():
        network = read(folder, dtype=dtype, device=where)
    if tokenizer.size > network.config.vocab_size:
        raise ConfigError(
            f"{folder}: {TOKENIZER} has {tokenizer.size} tokens and config.json a vocab_size of "
            f"{network.config.vocab_size}; they are not of one checkpoint"
        )
    # Everything that changes a score and is not in the files.
    decisive = {
        "dtype": str(dtype).removeprefix("torch."),
        "num_crops": settings.num_crops or preprocessor.num_crops,
        "template": [OPEN, CLOSE],
        "window_overlap": settings.window_overlap,
        "window_tokens": settings.window_tokens,
    } | ({"fp8": True} if settings.fp8 else {})
    info = ModelInfo(
        name=settings.name if revision else folder.resolve().name,
        revision=revision,
        digest=checkpoint.digest(files, decisive),
        caution=network.config.caution,
    )
    model = Phi3Vision(info, network, tokenizer, preprocessor, settings)
    if settings.fp8:
        _round(model)
    if settings.compile:
        network.compiled = Compiled(network.model)
        model.engine.warm_up(compiled.WARM_UP)
    if where.type == "cuda":
        _warm_up(model)
    return model


def _warm_up(model: Phi3Vision) -> None:
    """Scores one post with a picture, so that no later post pays for what a device sets up at its first use."""
    blank = Content("Good morning!", (PIL.Image.new("RGB", (8, 8), "white"),), "")
    model.score(model.encode(blank, [Question("warm-up", "Is this a post?"), Question("again", "Is it?")]))


def _round(model: Phi3Vision) -> None:
    """Rounds the decoder to eight bits and logs how far that moves scores."""
    if not fp8.available(model.network.device):
        raise ConfigError("MODERATION_MODEL__FP8: it needs a GPU of compute capability 8.9 or more")
    exact = model.engine.sample()
    count = fp8.use(model.network.model.layers)
    moved = [abs(before - after) for before, after in zip(exact, model.engine.sample(), strict=True)]
    log.info("fp8_in_use", matrices=count, questions=len(moved), mean_move=sum(moved) / len(moved), most=max(moved))


def cut(ids: list[int], size: int, overlap: int) -> Iterator[list[int]]:
    """Windows of `size` ids that cover all ids. Each overlaps the window before by `overlap` ids or more."""
    if len(ids) <= size:
        yield ids
        return
    for start in range(0, len(ids) - overlap, size - overlap):
        first = min(start, len(ids) - size)  # the last one is whole, too
        yield ids[first : first + size]


def _check_slots(shared: Sequence[int], slots: Sequence[int]) -> None:
    runs = [(-id - 1, sum(1 for _ in run)) for id, run in groupby(id for id in shared if id < 0)]
    if runs != list(enumerate(slots)):
        raise PostError(Reason.MODEL_FAILED, f"the prompt has image slots {runs} for pictures of {list(slots)} tokens")
