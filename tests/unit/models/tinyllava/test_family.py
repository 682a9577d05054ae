"""The three layouts as the service finds them, and each fault in one by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from moderation import models
from moderation.errors import ConfigError
from moderation.models.shared import checkpoint
from moderation.models.shared.classifier import VisionClassifier
from moderation.models.tinyllava import config
from moderation.models.tinyllava.config import LEGACY, LegacyTowerConfig
from moderation.models.tinyllava.family import Checkpoint
from moderation.models.tinyllava.network import TinyLlavaNetwork
from moderation.settings import ModelSettings
from tests.support import tinyllava
from tests.support.small_model import a_content, a_picture, questions

PUBLISHED = "bczhou/TinyLLaVA-3.1B-SigLIP"
LAYOUTS = {"factory": tinyllava.factory, "legacy": tinyllava.legacy, "llava": tinyllava.llava}


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return LAYOUTS[request.param](tmp_path)


def load(folder: Path, **knobs: Any) -> VisionClassifier[Any, Any]:
    model = models.load(ModelSettings(name=str(folder), device="cpu", **knobs))
    assert isinstance(model, VisionClassifier)
    return model


@pytest.mark.parametrize("folder", LAYOUTS, indirect=True)
def test_each_layout_scores_posts_with_pictures(folder: Path) -> None:
    model = load(folder)
    contents = [
        a_content("guns for sale"),
        a_content("", a_picture()),
        a_content("two", a_picture(), a_picture(90, 30)),
    ]
    scores = [score for content in contents for score in model.score(model.encode(content, questions(2)))[0]]
    assert all(score.sound for score in scores)
    assert len({round(score.margin, 4) for score in scores}) == len(scores)


@pytest.mark.parametrize("folder", LAYOUTS, indirect=True)
def test_each_layout_is_described(folder: Path) -> None:
    table = models.describe(str(folder))
    for row in ("decoder", "context", "tower", "picture"):
        assert any(line.startswith(row) for line in table.splitlines()), table


def test_crops_cannot_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MODERATION_MODEL__NUM_CROPS: TinyLLaVA shows each picture as one square"):
        load(tinyllava.factory(tmp_path), num_crops=4)


@pytest.mark.parametrize("folder", LAYOUTS, indirect=True)
def test_every_file_that_decides_a_score_is_in_the_digest(folder: Path) -> None:
    opened = Checkpoint(folder, None)
    before = checkpoint.digest(opened.files, {})
    names = {"config.json", "model.safetensors"}
    slow = {"vocab.json", "merges.txt", "tokenizer_config.json"}
    assert names | ({"tokenizer.json", "preprocessor_config.json"} if folder.name == "llava" else slow) <= {
        path.name for path in opened.files
    }
    for path in opened.files:
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        assert checkpoint.digest(opened.files, {}) != before, path
        path.write_bytes(content)


def test_the_legacy_towers_own_folder_decides_too(tmp_path: Path) -> None:
    opened = Checkpoint(tinyllava.legacy(tmp_path), None)
    assert tmp_path / "legacy" / "vision_tower" / "model.safetensors" in opened.files
    assert tmp_path / "legacy" / "vision_tower" / "config.json" in opened.files
    assert str(tmp_path / "legacy" / "vision_tower") in models.describe(str(tmp_path / "legacy"))


def test_a_legacy_tower_in_the_main_folder_is_taken_from_there(tmp_path: Path) -> None:
    """At the width that is written in the original code, with as many layers as are stored."""
    folder = tinyllava.legacy(tmp_path)
    read = config.read(folder)
    assert isinstance(read, config.LegacyConfig)
    architecture = read.architecture(LegacyTowerConfig(), 1, None)
    network = TinyLlavaNetwork(architecture)
    tower = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("vision_tower.")}
    tower |= {name: torch.zeros_like(tensor) for name, tensor in tower.items()}
    named = {architecture.published(name): tensor for name, tensor in tower.items()}
    projector = {
        architecture.published(name): tensor
        for name, tensor in network.state_dict().items()
        if name.startswith("projector.")
    }
    tinyllava.edit_weights(folder, lambda tensors: tensors.update(named | projector))
    shutil.rmtree(tmp_path / "legacy" / "vision_tower")
    opened = Checkpoint(folder, None)
    assert (opened.architecture.tower_folder, opened.architecture.tower.layers) == (None, 1)
    assert opened.architecture.tokens == 729
    assert opened.network(dtype=torch.float32, device=torch.device("cpu")).lm_head.bias is None


def test_a_legacy_checkpoint_without_a_tower_says_where_it_looked(tmp_path: Path) -> None:
    folder = tinyllava.legacy(tmp_path)
    shutil.rmtree(tmp_path / "legacy" / "vision_tower")
    with pytest.raises(ConfigError, match=r"legacy: holds no tensors of the vision tower, and mm_vision_tower"):
        load(folder)


NAMES = (
    "evil/repo",
    "/tower",
    "~",
    "../tower",
    "./vision_tower",
    "vision_tower/",
    "vision_tower/..",
    "..",
    ".",
    "",
    "linked",
    "absent",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_does_not_choose_what_is_fetched_or_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tinyllava.legacy(tmp_path)
    shutil.copytree(folder / "vision_tower", tmp_path / "tower")
    (folder / "linked").symlink_to(tmp_path / "tower")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("it fetches"))
    named = str(tmp_path / "tower") if name == "/tower" else name
    tinyllava.edit_config(folder, lambda content: content.update(mm_vision_tower=named))
    with pytest.raises(
        ConfigError, match=r"legacy: holds no .* only bczhou/TinyLLaVA-3\.1B-SigLIP is fetched"
    ) as error:
        load(folder)
    assert f"mm_vision_tower of its config.json is {named!r}" in str(error.value)


def test_a_tower_from_the_hub_is_shown_with_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tinyllava.legacy(tmp_path)
    cached = tmp_path / "snapshots" / ("ab" * 20)
    shutil.move(folder / "vision_tower", cached)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: cached if name == PUBLISHED else None)
    tinyllava.edit_config(folder, lambda content: content.update(mm_vision_tower=PUBLISHED))
    assert f"{PUBLISHED} at {'ab' * 20}" in models.describe(str(folder))
    assert cached / "model.safetensors" in Checkpoint(folder, None).files


def test_a_legacy_tower_with_a_tensor_missing_names_its_folder(tmp_path: Path) -> None:
    folder = tinyllava.legacy(tmp_path)
    name = "vision_model.encoder.layers.1.mlp.fc1.bias"
    tinyllava.edit_weights(tmp_path / "legacy" / "vision_tower", lambda tensors: tensors.pop(name))
    with pytest.raises(ConfigError, match=rf"vision_tower: the tensors are not .* 1 missing: {name}"):
        load(folder)


def test_a_whole_siglip_is_taken_for_its_vision_tower(tmp_path: Path) -> None:
    folder = tinyllava.legacy(tmp_path)
    before = Checkpoint(folder, None)
    rows = embedded(before)
    tower = tmp_path / "legacy" / "vision_tower"
    stray = {"logit_scale": torch.zeros(1), "text_model.head.weight": torch.zeros(2, 2)}
    last = "vision_model.encoder.layers.1.mlp.fc1.bias"
    tinyllava.edit_weights(
        tower,
        lambda tensors: tensors.update(stray | {last.replace(".1.", f".{n}."): tensors[last].clone() for n in (2, 26)}),
    )
    content = {"model_type": "siglip", "vision_config": json.loads((tower / "config.json").read_text())}
    content["vision_config"]["num_hidden_layers"] = 3
    (tower / "config.json").write_text(json.dumps(content))
    after = Checkpoint(folder, None)
    assert after.architecture.tower == before.architecture.tower
    assert torch.equal(embedded(after), rows)


def test_a_tower_in_part_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    folder = tinyllava.legacy(tmp_path)
    stray = {f"{LEGACY.tower}post_layernorm.bias": torch.zeros(1152)}
    tinyllava.edit_weights(folder, lambda tensors: tensors.update(stray))
    with pytest.raises(ConfigError, match=r"419 missing: model\.vision_tower"):
        load(folder)


@pytest.mark.parametrize("number", ["x", "-1", "", "9" * 5000])
def test_a_tensor_of_no_layer_of_the_tower_is_named(tmp_path: Path, number: str) -> None:
    folder = tinyllava.legacy(tmp_path)
    stray = f"{LEGACY.tower}encoder.layers.{number}.a"
    tinyllava.edit_weights(folder, lambda tensors: tensors.update({stray: torch.zeros(1)}))
    with pytest.raises(ConfigError, match=r"model\.safetensors: the tensor ") as caught:
        load(folder)
    assert stray in str(caught.value)


def embedded(opened: Checkpoint) -> torch.Tensor:
    network = opened.network(dtype=torch.float32, device=torch.device("cpu"))
    with torch.inference_mode():
        return network.embed_images(opened.encode_pictures([a_picture()]))[0]


def text(**changes: object) -> Callable[[Path], None]:
    return lambda folder: tinyllava.edit_config(folder, lambda content: content["text_config"].update(changes))


def vision(**changes: object) -> Callable[[Path], None]:
    return lambda folder: tinyllava.edit_config(folder, lambda content: content["vision_config"].update(changes))


def top(**changes: object) -> Callable[[Path], None]:
    return lambda folder: tinyllava.edit_config(folder, lambda content: content.update(changes))


def without(key: str) -> Callable[[Path], None]:
    return lambda folder: tinyllava.edit_config(folder, lambda content: content.pop(key))


def preprocessor(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


FAULTS = [
    ("factory", text(model_type="gemma"), r"config\.json: text_config\.model_type: Input should be 'phi'"),
    ("factory", vision(model_type="clip_vision_model"), r"vision_config\.model_type: Input should be 'siglip"),
    ("factory", text(num_attention_heads=7), "7 heads do not divide hidden_size 96"),
    ("factory", text(num_key_value_heads=2), "num_key_value_heads 2 does not divide"),
    ("factory", text(partial_rotary_factor=0.04), "rotates 1 of a head's 32 elements"),
    ("factory", text(qk_layernorm=True), r"8 missing: .*k_layernorm"),
    ("factory", text(hidden_act="relu"), r"text_config\.hidden_act"),
    ("factory", text(vocab_size=64), "tokens and config.json a vocab_size of 64"),
    ("factory", vision(num_attention_heads=5), "5 heads do not divide hidden_size 64"),
    ("factory", vision(image_size=20), "image_size 20 is not two patches"),
    ("factory", top(connector_type="resampler"), r"connector_type: Input should be 'mlp2x_gelu'"),
    ("factory", top(vision_feature_layer=-9), "vision_feature_layer -9 is outside 3 layers"),
    ("factory", top(vision_feature_select_strategy="cls"), "vision_feature_select_strategy: Input should be 'patch'"),
    ("factory", top(image_aspect_ratio="anyres"), "image_aspect_ratio: Input should be 'square' or 'pad'"),
    ("factory", without("text_config"), r"config\.json: text_config: Field required"),
    ("factory", lambda folder: (folder / "merges.txt").unlink(), r"merges\.txt is missing"),
    ("legacy", without("mm_use_im_patch_token"), "mm_use_im_patch_token: Field required"),
    ("legacy", top(mm_use_im_start_end=True), "mm_use_im_start_end"),
    ("legacy", top(mm_projector_type="linear"), "mm_projector_type: Input should be 'mlp2x_gelu'"),
    ("llava", text(model_type="mistral"), r"text_config\.model_type: Input should be 'llama'"),
    ("llava", top(image_token_index=7), r"image_token_index 7, and <image> is \d+ in tokenizer\.json"),
    ("llava", vision(hidden_act="gelu"), r"vision_config\.hidden_act"),
    ("llava", top(vision_feature_layer=[-2, -5]), "vision_feature_layer: Input should be a valid integer"),
    ("llava", preprocessor(resample=2), r"preprocessor_config\.json: resample"),
    ("llava", preprocessor(do_center_crop=False), r"preprocessor_config\.json: do_center_crop"),
    ("llava", preprocessor(do_convert_rgb=False), r"preprocessor_config\.json: do_convert_rgb"),
    ("llava", preprocessor(rescale_factor=1.0), r"preprocessor_config\.json: rescale_factor: 1\.0 is not 1/255"),
    ("llava", preprocessor(rescale_factor=float("nan")), r"rescale_factor: nan is not 1/255"),
    ("llava", preprocessor(size={"shortest_edge": 100}), r"crops 112 x 112 out of a short side of 100 pixels"),
    ("llava", lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
]


@pytest.mark.parametrize(("folder", "fault", "message"), FAULTS, indirect=["folder"])
def test_a_fault_is_named(folder: Path, fault: Callable[[Path], object], message: str) -> None:
    fault(folder)
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_a_checkpoint_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "phi3_v"}))
    with pytest.raises(ConfigError, match="model_type 'phi3_v', not one of tinyllava, tiny_llava_phi, llava"):
        config.read(tmp_path)
