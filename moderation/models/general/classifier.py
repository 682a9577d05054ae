"""A checkpoint of transformers as a classifier: the windows of every family, and a network with a cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from moderation.models.contract import Encoded
from moderation.models.general.family import Checkpoint
from moderation.models.general.network import CachedNetwork
from moderation.models.general.pictures import GeneralWindow, Shown
from moderation.models.general.processor import on
from moderation.models.shared import device
from moderation.models.shared.classifier import VisionClassifier
from moderation.models.shared.picture import EncodedPicture
from moderation.models.shared.scores import scores
from moderation.policies import prompts
from moderation.settings import ModelSettings
from moderation.types import Content, ModelInfo, Score


class GeneralClassifier(VisionClassifier[Any, GeneralWindow]):
    """A Classifier. `encode` may run on several threads at once; `score` belongs to one thread."""

    checkpoint: Checkpoint

    def __init__(self, info: ModelInfo, network: CachedNetwork, opened: Checkpoint, settings: ModelSettings) -> None:
        self.info = info
        self.network = network
        self.checkpoint = opened
        self._settings = settings
        self._shown = 0
        self._question = lru_cache(maxsize=4096)(self.encode_question)

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        """For each window one pass over what its questions share, and one for each question."""
        windows = [item for item in batch if isinstance(item, GeneralWindow)]
        if len(windows) < len(batch):
            raise TypeError("the batch holds an item that another model has encoded")
        with device.faults(), torch.inference_mode():
            return [self._scores(window) for window in windows]

    def look_ahead(self, items: Sequence[Encoded]) -> None:
        """Nothing: the network computes pictures itself."""

    @property
    def pictures(self) -> tuple[int, int]:
        """See Measured. No features are kept."""
        return self._shown, 0

    def _scores(self, window: GeneralWindow) -> list[Score]:
        self._shown += len(window.pictures)
        yes, no = self.checkpoint.template.answers
        inputs = on(window.inputs, self.network.device, self.network.dtype)
        if not window.tree.branches:
            return []
        return scores(self.network.last_logits(window.tree.shared, window.tree.branches, inputs, (*yes, *no)), yes, no)

    def _around_text(self, content: Content, pictures: Sequence[EncodedPicture]) -> tuple[list[int], list[int]]:
        """The shared ids before and behind the user's text."""
        template = self.checkpoint.template
        before, after = "", None
        for part in prompts.render(replace(content, pictures=()), ()).shared:
            if isinstance(part, prompts.Trusted) and after is None:
                before += part.text
            else:
                after = (after or "") + (part.text if isinstance(part, prompts.Trusted) else "")
        words = [picture.words for picture in pictures if isinstance(picture, Shown)]
        return template.head(words, before), template.after_text(after) if after else []
