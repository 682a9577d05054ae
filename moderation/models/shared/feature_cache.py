"""Features of pictures that were computed before: a picture that is posted again costs no second run of the tower."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from cachetools import LRUCache
from torch import Tensor


class EncodedPicture(Protocol):
    """A picture as a family's vision tower takes it. The family's network alone reads the pixels."""

    @property
    def digest(self) -> str:
        """A hash of everything that decides the features; "": the features are not kept."""

    @property
    def tokens(self) -> int:
        """Positions that the picture takes in the prompt, and rows of its features."""


PictureT = TypeVar("PictureT", bound=EncodedPicture)


def key(picture: EncodedPicture) -> str:
    """A name of the picture. Without a digest, the name is valid only while the object exists."""
    return picture.digest or f"at {id(picture)}"


@dataclass(frozen=True, slots=True)
class Features:
    """Features of one picture."""

    values: Tensor  # [tokens, hidden]
    ready: Hashable | None = None  # the moment on the side stream from which on they exist; None: they exist


class FeatureCache:
    """The latest features, up to a budget of bytes on the device. Belongs to one model and one thread.

    The key is the digest of what the tower takes: every setting and every byte that changes the features is in it. The
    model is not in the key, because each model has a cache of its own.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: LRUCache[str, Features] = LRUCache(budget, getsizeof=lambda features: features.values.nbytes)
        self.requested = 0
        self.hits = 0

    @property
    def bytes(self) -> int:
        """What the kept features take."""
        return int(self._kept.currsize)

    def get(
        self,
        pictures: Iterable[PictureT],
        embed_images: Callable[[Sequence[PictureT]], Sequence[Tensor]],
        ready: Hashable | None = None,
    ) -> dict[str, Features]:
        """The features of the pictures by `key`. Those that are not kept are computed in one launch, each once.

        ready: see Features. Raises ValueError when `embed_images` returns features of another length than `tokens`.
        """
        wanted = {key(picture): picture for picture in pictures}
        features = {name: self._kept[name] for name in wanted if name in self._kept}
        self.requested += len(wanted)
        self.hits += len(features)
        new = [name for name in wanted if name not in features]
        if new:
            for name, values in zip(new, embed_images([wanted[name] for name in new]), strict=True):
                if len(values) != wanted[name].tokens:
                    raise ValueError(f"{len(values)} features for a picture of {wanted[name].tokens} tokens")
                features[name] = Features(values, ready)
                if wanted[name].digest:
                    self._keep(name, features[name])
        return features

    def _keep(self, name: str, features: Features) -> None:
        values = features.values
        if values.nbytes > self._budget:
            return
        if values.untyped_storage().nbytes() > values.nbytes:
            values = values.clone()  # a view would hold the features of all pictures of its launch
        self._kept[name] = Features(values, features.ready)
