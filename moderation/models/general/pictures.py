"""The pictures of a post as a processor of transformers takes them: all pictures of one prompt together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL.Image import Image as Picture
from torch import Tensor

from moderation.models.general.processor import Processed, Processor
from moderation.models.shared.window import Window

PATCH = 14  # pixels of a patch's side, about: processors do not say


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One picture of a post."""

    number: int  # in the post, from 0
    words: str  # what stands in its place in the prompt
    tokens: int  # slots for its features
    work: int
    post: Pictures = field(repr=False)

    @property
    def digest(self) -> str:
        """Nothing: features are not kept, because classes of transformers compute them inside."""
        return ""

    @property
    def pixels(self) -> Tensor:
        """What the tower takes when this picture stands alone in its prompt."""
        return self.post.inputs([self.number])["pixel_values"]


@dataclass(frozen=True, slots=True, eq=False)
class GeneralWindow(Window):
    """A window, with what the network takes of its pictures."""

    inputs: Mapping[str, Tensor] = field(default_factory=dict)


class Pictures:
    """The pictures of one post. Belongs to one thread."""

    def __init__(self, processor: Processor, pictures: Sequence[Picture]) -> None:
        self._processor = processor
        self._pictures = pictures
        self._processed: dict[tuple[int, ...], Processed] = {}

    def shown(self, slot_text: str, tower_share: float) -> list[Shown]:
        """All pictures, as they are when they fit one prompt.

        slot_text: the token in whose place a feature stands. tower_share: the tower's numbers by the decoder's.
        """
        if not self._pictures:
            return []
        processed = self._of(tuple(range(len(self._pictures))))
        pixels = sum(value.numel() for name, value in processed.inputs.items() if name == "pixel_values")
        work = round(pixels / len(self._pictures) / (3 * PATCH**2) * tower_share)
        return [
            Shown(number, words, words.count(slot_text), work, self) for number, words in enumerate(processed.words)
        ]

    def inputs(self, numbers: Sequence[int]) -> Mapping[str, Tensor]:
        """What the network takes of a prompt with these pictures."""
        return self._of(tuple(numbers)).inputs

    def _of(self, numbers: tuple[int, ...]) -> Processed:
        if numbers not in self._processed:
            self._processed[numbers] = self._processor.pictures([self._pictures[number] for number in numbers])
        return self._processed[numbers]
