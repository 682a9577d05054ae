"""A broken checkpoint is refused with a message that names the fault. A whole one has the same digest everywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moderation import models
from moderation.dev.checkpoint import seeded
from moderation.errors import ConfigError
from moderation.models.contract import Classifier
from moderation.models.phi3 import family
from moderation.models.shared import checkpoint
from moderation.settings import ModelSettings
from tests.support.small_model import a_content, a_model, a_picture, questions, seeded_folder

LAST = "model.vision_embed_tokens.img_processor.vision_model.encoder.layers.2.mlp.fc1.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(seeded_folder(), tmp_path / "copy"))


def load(folder: Path) -> Classifier:
    return models.load(ModelSettings(name=str(folder), device="cpu"))


def edit_json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return edit


def config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return edit_json("config.json", change)


def vision(**sizes: int) -> Callable[[Path], None]:
    return config(lambda c: c["img_processor"]["vision_config"].update(sizes))


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def replace(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def more_tokens(folder: Path) -> None:
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    more = [{**token, "id": number, "content": f"<|more{number}|>"} for number in range(860, 960)]
    edit_json("tokenizer.json", lambda t: t["added_tokens"].extend(more))(folder)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def index(weight_map: dict[str, str]) -> Callable[[Path], object]:
    return replace("model.safetensors.index.json", json.dumps({"weight_map": weight_map}))


BROKEN = {
    "config.json missing": (remove("config.json"), r"copy: config\.json is missing"),
    "config.json cut": (replace("config.json", '{"model_type": "phi3_v"'), r"config\.json: not readable as JSON"),
    "config.json a list": (replace("config.json", "[]"), "holds a JSON list where an object is expected"),
    "config.json binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "not readable as JSON"),
    "no model_type": (config(lambda c: c.pop("model_type")), "model_type is missing"),
    "another model_type": (config(lambda c: c.update(model_type="bert")), "'bert', which this service cannot run"),
    "a key missing": (config(lambda c: c.pop("hidden_size")), r"config\.json: hidden_size: Field required"),
    "another activation": (config(lambda c: c.update(hidden_act="gelu")), "hidden_act: Input should be 'silu'"),
    "tied embeddings": (config(lambda c: c.update(tie_word_embeddings=True)), "tie_word_embeddings"),
    "heads that do not divide": (config(lambda c: c.update(num_attention_heads=5)), "5 heads"),
    "keys that do not divide": (config(lambda c: c.update(num_key_value_heads=3)), "num_key_value_heads 3"),
    "rope of another kind": (config(lambda c: c["rope_scaling"].update(type="yarn")), "rope_scaling.type"),
    "too few factors": (
        config(lambda c: c["rope_scaling"].update(short_factor=[1.0])),
        "short_factor has 1 factors where a head has 24",
    ),
    "a sliding window": (config(lambda c: c.update(sliding_window=2048)), "sliding_window 2048 is shorter"),
    "no HD transform": (config(lambda c: c["embd_layer"].update(use_hd_transform=False)), "use_hd_transform"),
    "class token kept": (config(lambda c: c["img_processor"].update(type_feature="cls_patch")), "type_feature"),
    "a layer that is not": (config(lambda c: c["img_processor"].update(layer_idx=-5)), "layer_idx -5 is outside 3"),
    "another width of features": (config(lambda c: c["img_processor"].update(image_dim_out=65)), "image_dim_out 65"),
    "an odd grid": (vision(image_size=98), "even number of patches"),
    "half a patch": (vision(image_size=120), "even number of patches"),
    "tower heads that do not divide": (vision(num_attention_heads=7), "7 heads do not divide hidden_size 64"),
    "preprocessor missing": (remove("preprocessor_config.json"), r"preprocessor_config\.json is missing"),
    "no crops": (
        edit_json("preprocessor_config.json", lambda c: c.update(num_crops=0)),
        "num_crops: Input should be greater than or equal to 1",
    ),
    "two means": (edit_json("preprocessor_config.json", lambda c: c["image_mean"].pop()), "image_mean"),
    "tokenizer missing": (remove("tokenizer.json"), r"tokenizer\.json is missing"),
    "tokenizer of no kind": (replace("tokenizer.json", "{}"), r"tokenizer\.json: not a tokenizer"),
    "answer split": (
        edit_json("tokenizer.json", lambda t: t["model"]["merges"].remove(["▁Ye", "s"])),
        "the answer 'Yes' takes 2 tokens",
    ),
    "a tokenizer with more tokens": (more_tokens, "has 9[0-9][0-9] tokens and config.json a vocab_size of 896"),
    "only pickle": (pickle_only, r"only pickled weights.*pytorch_model\.bin"),
    "no weights": (remove("model.safetensors"), r"holds neither model\.safetensors nor"),
    "weights cut": (truncate, r"model\.safetensors: not a whole safetensors file"),
    "tensors missing": (
        edit_weights(lambda t: [t.pop(n) for n in list(t) if "layers.1" in n and "vision" not in n]),
        r"6 missing: model\.layers\.1\.input_layernorm\.weight, .* and 2 more",
    ),
    "tensor unexpected": (
        edit_weights(lambda t: t.update({"adapter.lora_A": torch.zeros(2)})),
        r"1 unexpected: adapter\.lora_A; check",
    ),
    "another shape": (
        edit_weights(lambda t: t.update({"model.norm.weight": torch.zeros(95)})),
        r"1 of another shape: model\.norm\.weight is \[95\], not \[96\]",
    ),
    "quantised": (
        edit_weights(lambda t: t.update({"model.norm.weight": torch.zeros(96, dtype=torch.int8)})),
        r"1 quantised, which is not read: model\.norm\.weight is I8",
    ),
    "an index of nothing": (index({}), "weight_map is missing or empty"),
    "a shard missing": (
        index({"lm_head.weight": "model-00001-of-00002.safetensors"}),
        "names files that are not there",
    ),
    "a shard outside": (index({"lm_head.weight": "../other/model.safetensors"}), "points outside the folder"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_checkpoint_says_what_is_wrong(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        load(folder)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "nothing", "a/b/c", "with space/x"])
def test_a_folder_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        models.load(ModelSettings(name=name))


def test_a_hub_id_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"not in the local cache and not fetched .*MODERATION_MODEL=demo"):
        models.load(ModelSettings(name="nobody/nothing", revision="abc"))


def test_a_cached_hub_id_is_found_with_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--small"
    shutil.copytree(seeded_folder(), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    info = models.load(ModelSettings(name="someone/small", device="cpu")).info
    assert (info.name, info.revision, info.digest) == ("someone/small", commit, a_model().info.digest)


def test_shards_are_read_like_one_file(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[:40], names[40:]), start=1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    (folder / "model.safetensors").unlink()
    index(weight_map)(folder)
    model = family.load(ModelSettings(name=str(folder), device="cpu"))
    batch = a_model().encode(a_content("hello", a_picture()), questions(3))
    assert model.score(batch) == a_model().score(batch)


def test_what_is_not_used_may_be_absent_or_broken(folder: Path) -> None:
    edit_weights(lambda t: t.update({LAST: torch.zeros(1)}))(folder)
    edit_weights(lambda t: [t.pop(name) for name in list(t) if "post_layernorm" in name])(folder)
    load(folder)


def test_key_and_value_heads_may_be_fewer(folder: Path) -> None:
    config(lambda c: c.update(num_key_value_heads=1))(folder)
    edit_weights(
        lambda t: t.update(
            {name: t[name][: 96 + 48 + 48].clone() for name in list(t) if name.endswith("qkv_proj.weight")}
        )
    )(folder)
    model = load(folder)
    assert model.score(model.encode(a_content("hello"), questions(2)))


def test_the_digest_is_of_the_bytes_and_not_of_the_place(folder: Path) -> None:
    names = ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"]
    here, there = [folder / name for name in names], [seeded_folder() / name for name in reversed(names)]
    whole = checkpoint.digest(here, {"num_crops": 4})
    assert checkpoint.digest(there, {"num_crops": 4}) == whole
    assert checkpoint.digest(here, {"num_crops": 16}) != whole
    for path in here:
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert checkpoint.digest(here, {"num_crops": 4}) != whole, path.name
        path.write_bytes(before)
    assert checkpoint.digest(here, {"num_crops": 4}) == whole


def test_weights_that_were_not_looked_at_are_refused(folder: Path) -> None:
    """The expected digest is what `moderation model info` prints. One changed bit of the weights ends the start."""
    lines = models.describe(str(folder)).splitlines()
    (printed,) = [line.split()[-1] for line in lines if line.startswith("files' digest")]
    expecting = ModelSettings(name=str(folder), device="cpu", digest=printed)
    models.load(expecting)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(
        ConfigError, match=f"^MODERATION_MODEL__DIGEST: the files in {folder} have the digest [0-9a-f]+"
    ):
        models.load(expecting)


def test_a_model_outlives_its_files(folder: Path) -> None:
    model = load(folder)
    batch = model.encode(a_content("hello"), questions(2))
    before = model.score(batch)
    (folder / "model.safetensors").write_bytes(b"")
    assert model.score(batch) == before


def test_the_seeded_checkpoint_is_the_same_everywhere(tmp_path: Path) -> None:
    made = seeded(tmp_path / "a" / "b")
    for path in seeded_folder().iterdir():
        assert (made / path.name).read_bytes() == path.read_bytes(), path.name
    (made / "config.json").write_text("kept")
    assert (seeded(made) / "config.json").read_text() == "kept", "a whole checkpoint is not changed"
    (made / "OK").write_text("phi3 seeded 1\n")
    assert (seeded(made) / "config.json").read_text() != "kept"
    assert [path.name for path in made.parent.iterdir()] == ["b"], "no other file is left"


def test_a_seed_replaces_nothing_of_a_users(tmp_path: Path) -> None:
    file, kept = tmp_path / "prompt.txt", tmp_path / "mine"
    file.write_text("a prompt")
    kept.mkdir()
    (kept / "thesis.txt").write_text("precious")
    other = seeded(tmp_path / "other")
    for place, family_ in ((file, "phi3"), (kept, "phi3"), (other, "h2ovl")):
        with pytest.raises(ConfigError, match="exists, and is no"):
            seeded(place, family_)
    assert (file.read_text(), (kept / "thesis.txt").read_text()) == ("a prompt", "precious")
    with pytest.raises(ConfigError, match="cannot be written"):
        seeded(Path("/proc/nowhere/seed"))
    (tmp_path / "empty").mkdir()
    assert (seeded(tmp_path / "empty") / "config.json").exists()


def test_a_description_has_the_sizes_and_the_card() -> None:
    text = models.describe(str(seeded_folder()))
    assert "4 x 4 tokens each" in text
    assert "hidden 64, 2 of 3 layers" in text
    assert "A small checkpoint in the layout of phi3" in text, "the card"


def test_only_a_known_family_is_described_and_probed(folder: Path) -> None:
    edit_json("config.json", lambda config: config.update(model_type="bert"))(folder)
    with pytest.raises(ConfigError, match=r"'bert', which this service cannot run; it runs .*phi3_v"):
        models.describe(str(folder))
    with pytest.raises(ConfigError, match=r"'bert', which this service cannot run; it runs .*phi3_v"):
        models.probe(str(folder), "Yes", [], folder / "out.npz")
    assert not (folder / "out.npz").exists()


def test_loading_does_not_import_the_compiler() -> None:
    code = (
        "import sys; from moderation import models; from moderation.settings import ModelSettings;"
        "models.load(ModelSettings(name=sys.argv[1], device='cpu')); sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(seeded_folder())], check=True, timeout=120)
