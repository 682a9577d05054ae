"""What the model computes for a raw prompt, to compare with the published code.

`moderation model probe FOLDER --prompt FILE [--image FILE ...] --out FILE.npz`. Unlike in the service, the prompt's
text is trusted, <|image_1|> tags mark the places of pictures, and the whole prompt's length selects the rope factors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from moderation.errors import ConfigError
from moderation.models.phi3.network import LONG, PREPROCESSOR, SHORT, PreprocessorConfig, read
from moderation.models.phi3.preprocessing import Crops, HdTransform
from moderation.models.shared import checkpoint, tree
from moderation.models.shared.tokenizer import Tokenizer

TAG = re.compile(r"<\|image_(\d+)\|>")
TAIL = 16  # positions whose answer logits are written, from the end


def probe(place: str, prompt: str, images: Sequence[Path], out: Path, *, num_crops: int | None = None) -> None:
    """Runs one prompt in float32 on the CPU and writes an npz file with

    input_ids           int32 [tokens]; each token of image i is -i
    last_logits         float32 [vocabulary]
    tail_logits_yes_no  float32 [last 16 positions, 2]
    pixel_mean          float64 [images, num_crops + 1], with images only: the mean of each crop; 0 for an unused crop

    Raises ConfigError for a prompt that the original refuses.
    """
    folder, _ = checkpoint.locate(place, None)
    preprocessor = checkpoint.parse(folder / PREPROCESSOR, PreprocessorConfig)
    tokenizer = Tokenizer(folder)
    network = read(folder, dtype=torch.float32, device=torch.device("cpu"))
    transform = preprocessor.transform(network.config, num_crops)
    pictures = [_picture(path, transform) for path in images]
    ids = _ids(prompt, [picture.tokens for picture in pictures], tokenizer)
    packed = tree.pack([tree.Tree(tuple(ids), ())], network.device)
    with torch.inference_mode():
        variant = LONG if len(ids) > network.config.original_max_position_embeddings else SHORT
        hidden = network(packed, network.embed_images(pictures), [variant])
        logits = network.logits(hidden[-TAIL:]).numpy()
    yes_no_ids = [tokenizer.word("Yes"), tokenizer.word("No")]
    arrays = {
        "input_ids": np.array(ids, dtype=np.int32),
        "last_logits": logits[-1],
        "tail_logits_yes_no": logits[:, yes_no_ids],
    }
    if pictures:
        means = np.zeros((len(pictures), transform.budget + 1))
        for row, picture in zip(means, pictures, strict=True):
            row[: len(picture)] = picture.pixels.double().mean(dim=(1, 2, 3)).numpy()
        arrays["pixel_mean"] = means
    with out.open("wb") as file:  # given a name, numpy would add a suffix of its own
        np.savez_compressed(file, **arrays)


def _picture(path: Path, transform: HdTransform) -> Crops:
    try:
        with Image.open(path) as picture:
            return transform.crops(picture)
    except (OSError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: not readable as an image ({error})") from None


def _ids(prompt: str, counts: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """The prompt's ids, with each tag replaced by as many slots as its picture has tokens.

    The original ignores the tags' numbers and fills the slots in order, so tags may be out of order. A repeated tag
    leaves slots without features, and the original fails.
    """
    if not counts:
        return tokenizer.trusted(prompt, begin=True)
    tags = [int(number) for number in TAG.findall(prompt)]
    if sorted(set(tags)) != list(range(1, len(counts) + 1)):
        asked = ", ".join(f"<|image_{tag}|>" for tag in sorted(set(tags))) or "none"
        raise ConfigError(
            f"{len(counts)} images need tags from <|image_1|> to <|image_{len(counts)}|>, each once; there is {asked}"
        )
    if len(tags) != len(counts):
        raise ConfigError(f"each image's tag may stand in the prompt once; it has {len(tags)} for {len(counts)} images")
    chunks = TAG.split(prompt)[::2]  # the others are the tags' numbers
    ids: list[int] = []
    for chunk, tag in zip(chunks, [*tags, None], strict=True):
        ids += tokenizer.trusted(chunk, begin=True)
        if tag is not None:
            ids += [-tag] * counts[tag - 1]
    return ids
