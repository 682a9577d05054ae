"""Features of pictures that were seen before: the same picture, posted again, costs no second look."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from moderation.models.phi3.preprocessing import Crops


def key(picture: Crops) -> str:
    """What tells a picture from another; of one without a digest, only while it is there."""
    return picture.digest or f"at {id(picture)}"


@dataclass(frozen=True, slots=True)
class Seen:
    """Of a picture. made: the moment, beside the steps, from which on they are there; None: they are."""

    features: Tensor  # [tokens, hidden]
    made: Hashable | None = None


class Features:
    """The latest ones, up to a budget of bytes on the device. Belongs to one model, one crop setting and one thread.

    The key is the digest of the scaled and padded pixels, so that the crop setting and every byte that the tower sees
    are in it; the model's digest is not, since another model has another cache.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[str, Seen] = OrderedDict()
        self.bytes = 0
        self.asked = 0
        self.hits = 0

    def of(
        self,
        pictures: Iterable[Crops],
        embed_images: Callable[[Sequence[Crops]], Sequence[Tensor]],
        made: Hashable | None = None,
    ) -> dict[str, Seen]:
        """By digest. Those that are not kept are seen in one launch, each once; made: see Seen."""
        wanted = {key(picture): picture for picture in pictures}
        found = {digest: self._kept[digest] for digest in wanted if digest in self._kept}
        self.asked += len(wanted)
        self.hits += len(found)
        for digest in found:
            self._kept.move_to_end(digest)
        new = [digest for digest in wanted if digest not in found]
        if new:
            seen = embed_images([wanted[digest] for digest in new])
            found |= {digest: Seen(features, made) for digest, features in zip(new, seen, strict=True)}
            for digest in new:
                if wanted[digest].digest:
                    self._keep(digest, found[digest])
        return found

    def _keep(self, digest: str, seen: Seen) -> None:
        features = seen.features
        if (size := features.nbytes) > self._budget:
            return
        # A view would hold on to the features of all pictures of its launch.
        self._kept[digest] = Seen(
            features.clone() if features.untyped_storage().nbytes() > size else features, seen.made
        )
        self.bytes += size
        while self.bytes > self._budget:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= oldest.features.nbytes
