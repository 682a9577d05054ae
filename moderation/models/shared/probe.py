"""What a model computes for a raw prompt, to compare with the published code.

`moderation model probe FOLDER --prompt FILE [--image FILE ...] --out FILE.npz`. Unlike in the service, the prompt's
text is trusted, and tags mark the places of pictures as in the original: <|image_1|>, <image> or <ImageHere>.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Image as Picture

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint, tree
from moderation.models.shared.family import Checkpoint

TAIL = 16  # positions whose answer logits are written, from the end


def probe(
    family: type[Checkpoint[Any, Any]],
    place: str,
    prompt: str,
    images: Sequence[Path],
    out: Path,
    *,
    num_crops: int | None = None,
) -> None:
    """Runs one prompt in float32 on the CPU and writes an npz file with

    input_ids           int32 [tokens]; each token of image i is -i
    last_logits         float32 [vocabulary]
    tail_logits_yes_no  float32 [last 16 positions, 2]
    pixel_mean          float64 [images, crops], with images only: the mean of each crop; 0 where an image has fewer

    and what the family adds. Raises ConfigError for a prompt that the original refuses.
    """
    folder, _ = checkpoint.locate(place, None, family.wanted)
    opened = family(folder, num_crops)
    network = opened.network(dtype=torch.float32, device=torch.device("cpu"))
    pictures = opened.encode_pictures([_picture(path) for path in images])
    ids = opened.raw_ids(prompt, pictures)
    if not ids:
        raise ConfigError("the prompt is empty: it must yield a token at least")
    packed = tree.pack([tree.Tree(tuple(ids), ())], network.device)
    with torch.inference_mode():
        hidden = network(packed, network.embed_images(pictures) if pictures else [], [network.variant(len(ids))])
        logits = network.logits(hidden[-TAIL:]).numpy()
        yes, no = opened.template.answers
        arrays = {
            "input_ids": np.array(ids, dtype=np.int32),
            "last_logits": logits[-1],
            "tail_logits_yes_no": logits[:, [yes[0], no[0]]],
            **opened.computed(network, pictures),
        }
        if pictures:
            means = [picture.pixels.double().mean(dim=(1, 2, 3)).numpy() for picture in pictures]
            arrays["pixel_mean"] = np.zeros((len(means), max(opened.most_crops, *map(len, means))))
            for row, mean in zip(arrays["pixel_mean"], means, strict=True):
                row[: len(mean)] = mean
    try:
        with out.open("wb") as file:  # given a name, numpy would add a suffix of its own
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from None


def _picture(path: Path) -> Picture:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.copy()
    except (OSError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: not readable as an image ({error})") from None
