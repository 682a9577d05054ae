"""What a family of models provides: its checkpoint, opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

import torch
from numpy.typing import NDArray
from PIL.Image import Image as Picture

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint
from moderation.models.shared.network import LanguageNetwork
from moderation.models.shared.picture import EncodedPicture
from moderation.models.shared.template import Template
from moderation.models.shared.tree import Tree
from moderation.models.shared.window import Window

NetworkT = TypeVar("NetworkT", bound=LanguageNetwork)
WindowT = TypeVar("WindowT", bound=Window)


class DecoderConfig(Protocol):
    """A decoder's part of a config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int

    @property
    def head_size(self) -> int: ...

    @property
    def kv_heads(self) -> int: ...


class Checkpoint(ABC, Generic[NetworkT, WindowT]):
    """A checkpoint of one family, its small files read and checked. `network` reads the weights.

    A family subclasses it as `Checkpoint` in its module `family`. The constructor takes a folder and
    MODERATION_MODEL__NUM_CROPS (None: the checkpoint's own), and raises ConfigError naming file and key.
    """

    # Files that are fetched of a hub id, as patterns.
    wanted: ClassVar[Sequence[str]] = checkpoint.WANTED

    folder: Path
    template: Template
    context: int  # positions of a prompt at most
    most_crops: int = 0  # of a picture, where the family has a limit
    caution: str = ""  # why not to rely on it

    @abstractmethod
    def __init__(self, folder: Path, num_crops: int | None) -> None: ...

    @property
    @abstractmethod
    def files(self) -> Sequence[Path]:
        """Every file that decides a score: configs, tokenizer, weights."""

    @property
    def decisive(self) -> Mapping[str, object]:
        """What decides a score and stands neither in a file nor in the template. Part of the model's digest."""
        return {}

    @property
    @abstractmethod
    def rows(self) -> Mapping[str, str]:
        """Rows of `moderation model info`: decoder, context, tower, pictures."""

    @abstractmethod
    def network(self, *, dtype: torch.dtype, device: torch.device) -> NetworkT:
        """The network with the folder's weights. Raises ConfigError naming the file or tensor that is wrong."""

    @abstractmethod
    def encode_pictures(self, pictures: Sequence[Picture]) -> Sequence[EncodedPicture]:
        """All pictures of a post as the tower takes them; runs on several threads. Raises PostError for a bad one."""

    @abstractmethod
    def raw_ids(self, prompt: str, pictures: Sequence[EncodedPicture]) -> list[int]:
        """The ids of a raw prompt as the original code makes them; each token of picture i is -i, from 1.

        Raises ConfigError for a prompt that the original refuses, or would cut.
        """

    def window(self, tree: Tree, pictures: tuple[EncodedPicture, ...], picture_work: int) -> WindowT:
        """A window of a post. A family whose network has variants overrides this with its own subclass of Window."""
        return cast(WindowT, Window(tree, pictures, picture_work))

    def computed(self, network: NetworkT, pictures: Sequence[EncodedPicture]) -> Mapping[str, NDArray[Any]]:
        """More arrays for `moderation model probe`."""
        return {}


def check_vocabulary(folder: Path, tokens: int, decoder: DecoderConfig) -> None:
    """Raises ConfigError when the tokenizer has more tokens than the decoder has rows for."""
    if tokens > decoder.vocab_size:
        raise ConfigError(
            f"{folder}: the tokenizer has {tokens} tokens and {checkpoint.CONFIG} a vocab_size of "
            f"{decoder.vocab_size}; they are not of one checkpoint"
        )


def refuse_crops(num_crops: int | None, why: str) -> None:
    """Raises ConfigError when the setting is there, for a family without crops."""
    if num_crops is not None:
        raise ConfigError(f"MODERATION_MODEL__NUM_CROPS: {why}; unset it")


def decoder_row(decoder: DecoderConfig) -> str:
    """The row "decoder" of `moderation model info`."""
    return (
        f"{decoder.num_hidden_layers} layers, hidden {decoder.hidden_size}, vocabulary {decoder.vocab_size}, "
        f"{decoder.num_attention_heads} heads of {decoder.head_size} on {decoder.kv_heads} keys"
    )
