"""Our networks against transformers' own, on the seeded checkpoint: nothing shared but the weights and the crops."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moderation.models.phi3 import family
from moderation.models.phi3.family import Phi3Vision
from moderation.models.phi3.network import LONG, SHORT
from moderation.models.shared import tree
from moderation.models.shared.scores import scores
from moderation.models.shared.tree import Tree
from moderation.types import Content
from tests.support.builders import mass_of
from tests.support.small_model import Reference, a_content, a_model, a_picture, questions, seeded_folder, settings

CLOSE = 1e-4

CASES = {
    "text": a_content("free crypto, click the link"),
    "image": a_content("what is this image?", a_picture(300, 200, seed=1)),
    "two images": a_content("", a_picture(90, 250, seed=2), a_picture(400, 90, seed=3)),
    "long text": a_content("dog cat gun money " * 1100),
    "between": a_content("dog cat gun money " * 900),
    "all but the context": a_content("dog cat gun money " * 1008),
    "image and long text": a_content("dog cat gun money " * 1100, a_picture(300, 200, seed=1)),
}


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(seeded_folder())


@pytest.fixture(scope="module")
def model() -> Phi3Vision:
    return a_model(window_tokens=8192)


@pytest.mark.parametrize("content", CASES.values(), ids=CASES.keys())
def test_a_tree_equals_transformers_on_separate_prompts(
    model: Phi3Vision, reference: Reference, content: Content
) -> None:
    (window,) = model.encode(content, questions(3))
    row = model.score([window])[0]
    yes, no = model.checkpoint.template.answers
    worst = 0.0
    for branch, score in zip(window.tree.branches, row, strict=True):
        expected = scores(reference.logits(window.tree.shared + branch, window.pictures)[None], yes, no)[0]
        worst = max(worst, abs(score.margin - expected.margin), abs(mass_of(score) - mass_of(expected)))
    print(f"largest difference from transformers: {worst:.1e} log-odds")
    assert worst < CLOSE


def test_fewer_key_heads_than_query_heads(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(seeded_folder(), tmp_path / "grouped"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 1}))
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith("qkv_proj.weight")]:
        query, key, value = tensors[name].chunk(3)
        tensors[name] = torch.cat([query, key[:48], value[:48]])
    save_file(tensors, folder / "model.safetensors")
    test_a_tree_equals_transformers_on_separate_prompts(
        family.load(settings(name=str(folder))), Reference(folder), CASES["image"]
    )


@pytest.mark.parametrize("length", [4095, 4096, 4097])
def test_all_logits_on_either_side_of_the_original_context(
    model: Phi3Vision, reference: Reference, length: int
) -> None:
    ids = tuple(3 + (place * place) % 500 for place in range(length))
    with torch.inference_mode():
        packed = tree.pack([Tree(ids, ())], torch.device("cpu"))
        hidden = model.network(packed, [], [LONG if length > 4096 else SHORT])
        logits = model.network.logits(hidden[-1:])[0]
    worst = float((logits - reference.logits(ids, [])).abs().max())
    print(f"{length} positions: largest difference of a logit {worst:.1e}")
    assert worst < CLOSE
