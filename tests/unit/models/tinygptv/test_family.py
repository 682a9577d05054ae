"""A converted folder: what is wrong with a damaged one, raw prompts, and sizes at full size."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moderation import models
from moderation.bench import memory
from moderation.errors import ConfigError
from moderation.models.shared import tree
from moderation.models.shared.checkpoint import meta_modules
from moderation.models.shared.phi import PhiConfig
from moderation.models.tinygptv import PUBLISHED, preprocessing
from moderation.models.tinygptv.family import Checkpoint
from moderation.models.tinygptv.network import QFormerConfig, TinyGptvConfig, TinyGptvNetwork, VisionConfig
from moderation.settings import ModelSettings
from tests.support.small_model import a_picture
from tests.support.tinygptv_artefacts import seeded_folder


def edit(change: Callable[[dict[str, Any]], object], name: str = "config.json") -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return run


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "an unknown variant": (
        edit(lambda c: c.update(arch="minigpt5")),
        r"config\.json: arch: Input should be 'minigpt4'",
    ),
    "no variant": (edit(lambda c: c.pop("arch")), "arch: Field required"),
    "no sizes of the language model": (edit(lambda c: c.pop("text_config")), "text_config: Field required"),
    "half a patch": (edit(lambda c: c["vision_config"].update(image_size=120)), "no whole number of patches of 14"),
    "tower heads": (edit(lambda c: c["vision_config"].update(num_attention_heads=5)), "5 heads do not divide"),
    "Q-Former heads": (edit(lambda c: c["qformer_config"].update(num_attention_heads=5)), "5 heads do not divide"),
    "another crossing": (edit(lambda c: c["qformer_config"].update(cross_attention_frequency=3)), "should be 2"),
    "another activation": (edit(lambda c: c["text_config"].update(hidden_act="relu")), "hidden_act"),
    "another size of pictures": (
        edit(lambda c: c["vision_config"].update(image_size=224)),
        r"visual_encoder\.pos_embed is \[1, 65, 64\], not \[1, 257, 64\]",
    ),
    "more layers": (
        edit(lambda c: c["text_config"].update(num_hidden_layers=3)),
        r"19 missing: llama_model\.model\.layers\.2\.input_layernorm\.bias",
    ),
    "fewer layers": (edit(lambda c: c["qformer_config"].update(num_hidden_layers=1)), r"16 unexpected: Qformer\.bert"),
    "a small vocabulary": (edit(lambda c: c["text_config"].update(vocab_size=64)), "a vocab_size of 64"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
    "an answer of two tokens": (
        edit(lambda t: t["model"]["merges"].remove("ye s"), "tokenizer.json"),
        "the answer 'yes' takes 2 tokens",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_damaged_folder_says_what_is_wrong(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = Path(shutil.copytree(seeded_folder(), tmp_path / "copy"))
    damage(folder)
    with pytest.raises(ConfigError, match=message):
        models.load(ModelSettings(name=str(folder), device="cpu"))


def test_crops_are_refused() -> None:
    with pytest.raises(ConfigError, match="MODERATION_MODEL__NUM_CROPS: TinyGPT-V cuts no picture into crops"):
        Checkpoint(seeded_folder(), 4)


@pytest.fixture(scope="module")
def opened() -> Checkpoint:
    return Checkpoint(seeded_folder(), None)


def test_a_raw_prompt_is_cut_at_its_tags(opened: Checkpoint) -> None:
    pictures = opened.encode_pictures([a_picture(30, 20), a_picture(20, 30)])
    trusted = opened.tokenizer.trusted
    ids = opened.raw_ids("a <Img><ImageHere></Img> b<ImageHere>", pictures)
    assert ids == [*trusted("a <Img>"), *[-1] * 8, *trusted("</Img> b"), *[-2] * 8]
    assert opened.raw_ids("###Human: x", []) == trusted("###Human: x"), "nothing is added in front"


@pytest.mark.parametrize(
    ("prompt", "pictures", "message"),
    [
        ("none", 1, "1 images need <ImageHere> as many times in the prompt; it has 0"),
        ("<ImageHere>", 0, "0 images need <ImageHere> as many times in the prompt; it has 1"),
        ("<ImageHere><ImageHere>", 1, "it has 2"),
        ("", 0, "the prompt takes 0 positions"),
        ("Yes " * 2048, 0, "this model takes 1 to 2048"),
    ],
)
def test_a_prompt_that_the_original_refuses(opened: Checkpoint, prompt: str, pictures: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened.raw_ids(prompt, opened.encode_pictures([a_picture(30, 20)] * pictures))


def full_size(image: int) -> TinyGptvConfig:
    return TinyGptvConfig(
        arch="minigpt4",
        vision_config=VisionConfig(image_size=image),
        qformer_config=QFormerConfig(),
        text_config=PhiConfig(
            hidden_size=2560, intermediate_size=10240, num_hidden_layers=32, partial_rotary_factor=0.4
        ),
    )


@pytest.mark.parametrize(("image", "parameters"), [(224, 3_884_473_728), (448, 3_884_473_728 + 768 * 1408)])
def test_the_full_size(image: int, parameters: int) -> None:
    with meta_modules():
        tensors = TinyGptvNetwork(full_size(image)).state_dict()
    assert sum(tensor.numel() for tensor in tensors.values()) == parameters
    assert len(tensors) == 4 + 13 * 39 + 2 + (2 + 16 * 12 + 10 * 6) + 1 + 4 + (32 * (8 + 4 + 4 + 2 + 1) + 5)
    assert sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("visual_")) - parameters == (
        985_894_528 - 3_884_473_728
    )


@pytest.mark.parametrize(("image", "place"), [(224, 0), (448, 1)])
def test_what_the_list_says_is_the_networks(image: int, place: int) -> None:
    row, config = PUBLISHED[place], full_size(image)
    with meta_modules():
        network = TinyGptvNetwork(config)
    assert row.parameters == sum(tensor.numel() for tensor in network.state_dict().values())
    assert (row.context, row.image_tokens) == (config.text_config.max_position_embeddings, config.picture_tokens)
    picture = preprocessing.square(a_picture(640, 480), image, tokens=config.picture_tokens, work=config.picture_work)
    step = memory.of_step(memory.shapes(network, torch.bfloat16), [picture])
    assert row.memory_bytes == pytest.approx(step.total, abs=0.005e9)


def test_a_pictures_work_in_tokens() -> None:
    """The tower multiplies 253 G times for 257 tokens at 224 x 224; a token of the decoder takes 2.5 G."""
    assert full_size(224).picture_work == pytest.approx(257 * 39 * 25.2e6 / 2.516e9, rel=0.1)
    assert 3.8 < full_size(448).picture_work / full_size(224).picture_work < 4.2


def test_rotary_tables_are_rounded_to_float16() -> None:
    with meta_modules():
        network = TinyGptvNetwork(full_size(224))
    packed = tree.pack([tree.Tree((1,) * 100, ())], torch.device("cpu"))
    rotary = network.rotary(packed, [0], torch.float32)
    assert rotary.cos.shape == (100, 1, 16)
    assert rotary.cos.dtype == torch.float32
    assert torch.equal(rotary.cos, rotary.cos.half().float())
    exact = torch.cos(torch.tensor(99 * 10000 ** (-2 / 32), dtype=torch.float64))
    assert abs(rotary.cos[99, 0, 1].double() - exact) < 1e-3
