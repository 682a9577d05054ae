"""The small checkpoints of tests/support/general: transformers' own classes run them, and their templates are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from PIL.Image import Image as Picture
from torch import Tensor
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string
from transformers.utils.chat_template_utils import render_jinja_template

from tests.support.general import KINDS, byte_level, gemma3, internvl, llava, make
from tests.support.small_model import a_picture

RULES, QUESTION = "Judge it.", " Is it spam?\n"
TURN = f"<start_of_turn>user\n{RULES}\n\n"
GAP = "\n" + " " * 16
# What the published templates render for rules, two pictures and a question: recorded, and not rendered here.
RENDERED = {
    "llava": f"{RULES} USER: <image>\n<image>\n{QUESTION} ASSISTANT:",
    "qwen2_5_vl": (
        f"<|im_start|>system\n{RULES}<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|><|vision_start|><|image_pad|><|vision_end|>"
        f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    ),
    "smolvlm": (
        f"<|im_start|>System: {RULES}<end_of_utterance>\nUser:<image><image>{QUESTION}<end_of_utterance>\nAssistant:"
    ),
    "gemma3": (f"<bos>{TURN}<start_of_image><start_of_image>{QUESTION.strip()}<end_of_turn>\n<start_of_turn>model\n"),
    "shieldgemma2": (
        "<bos><start_of_turn>user\n<start_of_image><start_of_turn>user\n<start_of_image><start_of_turn>user\n"
        f"You are a policy expert trying to help determine whether a generated or real image is in{GAP}"
        f" violation of the safety policy below. Your decision must very clearly follow the specific{GAP}"
        f" language used in the safety policy and should not include any interpretation outside of the{GAP}"
        f" safety policy.\n\n{GAP}<BEGIN_SAFETY_POLICY>\n{GAP}{QUESTION}\n{GAP}</END_SAFETY_POLICY>\n\n{GAP}"
        f"Does the image violate the above policy? Your Answer must start with 'Yes' or 'No'.{GAP}<end_of_turn>\n"
        "<start_of_turn>model\n"
    ),
    "internvl": (
        f"<|im_start|>system\n{RULES}<|im_end|>\n<|im_start|>user\n<IMG_CONTEXT>\n<IMG_CONTEXT>\n{QUESTION}<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
}
PLACEHOLDERS = {
    "llava": "<image>",
    "qwen2_5_vl": "<|image_pad|>",
    "smolvlm": "<image>",
    "gemma3": "<start_of_image>",
    "shieldgemma2": "<start_of_image>",
    "internvl": "<IMG_CONTEXT>",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("general")
    for kind in KINDS:
        make(kind, parent / kind)
    return parent


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_small_and_comes_from_its_seed(kind: str, folders: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in (folders / kind).iterdir()}
    assert sum(map(len, files.values())) < 2_000_000
    torch.manual_seed(7)  # of the process: it must not count
    again, other = make(kind, tmp_path / "again"), make(kind, tmp_path / "other", seed=1)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == files
    assert {path.name for path in other.iterdir() if path.read_bytes() != files[path.name]} == {"model.safetensors"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_renders_what_the_published_one_renders(kind: str, folders: Path) -> None:
    rules = [] if kind == "shieldgemma2" else [_message("system", RULES)]
    assert _rendered(folders / kind, [*rules, _message("user", QUESTION, pictures=2)]) == RENDERED[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_own_class_runs_it(kind: str, folders: Path) -> None:
    folder = folders / kind
    config = json.loads((folder / "config.json").read_text())
    named = getattr(transformers, config["architectures"][0])
    model, loaded = named.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(loaded.values()), "each tensor has its published name"
    first, second = a_picture(130, 90, seed=1), a_picture(100, 200, seed=2)
    answers = _answers(folder)
    seen = set()
    for pictures in ([first], [second], [first, second], [second, first]):
        for words in ("Is it spam?", "guns for sale"):
            odds = _next(model, kind, folder, words, pictures).softmax(-1)[answers]
            assert odds.sum() > 0.9, "the answers hold nearly all of the probability"
            seen.add(tuple(round(float(share), 6) for share in odds))
    assert len(seen) == 8, "which answer it is depends on pictures, their order and words"


def test_shieldgemmas_classifier_gives_two_logits_of_the_model_in_it(folders: Path) -> None:
    """Its tensors have names that AutoModelForImageTextToText does not know: the classifier must load them."""
    folder = folders / "shieldgemma2"
    classifier = transformers.ShieldGemma2ForImageClassification.from_pretrained(folder, dtype=torch.float32)
    assert isinstance(classifier.model, transformers.Gemma3ForConditionalGeneration)
    pictures = [a_picture(130, 90)]
    with torch.inference_mode():
        pair = classifier(**_inputs("shieldgemma2", folder, "guns for sale", pictures)).logits[0]
    logits = _next(classifier, "shieldgemma2", folder, "guns for sale", pictures)
    assert torch.equal(logits[[classifier.yes_token_index, classifier.no_token_index]], pair)


def _message(role: str, words: str, pictures: int = 0) -> dict[str, Any]:
    return {"role": role, "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": words}]}


def _rendered(folder: Path, messages: list[dict[str, Any]]) -> str:
    if (template := folder / "chat_template.jinja").exists():
        text = template.read_text(encoding="utf-8")
    else:
        text = json.loads((folder / "chat_template.json").read_text(encoding="utf-8"))["chat_template"]
    render: Any = render_jinja_template
    knobs = {"add_generation_prompt": True, "bos_token": "<bos>"}
    return str(render([messages], chat_template=text, **knobs)[0][0])


def _answers(folder: Path) -> list[int]:
    engine = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = engine.get_vocab(with_added_tokens=True)
    return byte_level.answers(ids) if "ĠYes" in ids else gemma3.answers(ids)


def _inputs(kind: str, folder: Path, words: str, pictures: list[Picture]) -> dict[str, Tensor]:
    """What transformers' processor would give, without torchvision and num2words, which two of them ask for."""
    wanted: dict[str, Any] = {"return_tensors": "pt"}
    if kind == "smolvlm":
        wanted["return_row_col_info"] = True
    if kind == "internvl":
        wanted["crop_to_patches"] = True
    auto: Any = transformers.AutoImageProcessor
    encoded = dict(auto.from_pretrained(folder)(images=[pictures] if kind == "smolvlm" else pictures, **wanted))
    text = _rendered(folder, [_message("user", words, pictures=len(pictures))])
    start, *rest = text.split(PLACEHOLDERS[kind])
    for place, behind in enumerate(rest):
        start += _slots(kind, encoded, place) + behind
    engine = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = torch.tensor([engine.encode(start, add_special_tokens=kind == "llava").ids])
    for name in ("rows", "cols", "num_crops", "num_patches"):
        encoded.pop(name, None)
    soft = json.loads((folder / "config.json").read_text())
    slot = soft["image_token_id"] if "image_token_id" in soft else soft["image_token_index"]
    if kind in {"gemma3", "shieldgemma2"}:
        encoded["token_type_ids"] = (ids == slot).long()
    if kind == "qwen2_5_vl":
        encoded["mm_token_type_ids"] = (ids == slot).long()
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **encoded}


def _slots(kind: str, encoded: dict[str, Any], place: int) -> str:
    match kind:
        case "llava":
            return "<image>" * (llava.IMAGE // llava.PATCH) ** 2
        case "qwen2_5_vl":
            return "<|image_pad|>" * (int(encoded["image_grid_thw"][place].prod()) // 4)
        case "smolvlm":
            expand: Any = get_image_prompt_string
            rows, columns = encoded["rows"][0][place], encoded["cols"][0][place]
            return str(expand(rows, columns, 4, "<fake_token_around_image>", "<image>", "<global-img>"))
        case "internvl":
            return f"<img>{'<IMG_CONTEXT>' * internvl.TOKENS * int(encoded['num_patches'][place])}</img>"
    return f"\n\n<start_of_image>{'<image_soft_token>' * gemma3.TOKENS}<end_of_image>\n\n"


def _next(model: Any, kind: str, folder: Path, words: str, pictures: list[Picture]) -> Tensor:
    """Logits of the token that follows the prompt. (tokens)"""
    whole = model.model if kind == "shieldgemma2" else model
    with torch.inference_mode():
        logits: Tensor = whole(**_inputs(kind, folder, words, pictures)).logits[0, -1]
    return logits
