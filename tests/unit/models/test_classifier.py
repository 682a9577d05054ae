"""The classifier around the networks: windows, limits, faults, identity."""

from __future__ import annotations

import importlib
import re
from copy import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from moderation import models
from moderation.dev.checkpoint import seeded
from moderation.errors import ConfigError, DeviceError, PostError
from moderation.models.fake import Fake
from moderation.models.phi3 import family
from moderation.models.phi3.family import Phi3Vision
from moderation.models.shared import loading
from moderation.models.shared.classifier import SHORTEST, VisionClassifier
from moderation.models.shared.user_text import BYTES_A_TOKEN, UserText, cut
from moderation.models.shared.window import LONGEST_QUESTION
from moderation.models.tinyllava.template import PHI
from moderation.settings import ModelSettings
from moderation.types import Problem, Question, Reason
from tests.support.builders import mass_of
from tests.support.small_model import a_content, a_model, a_picture, a_tokenizer, questions, settings

TOO_LONG = Problem(Reason.TEXT_TOO_LONG, "text")
WORDS = "dog cat gun money hate love"


@pytest.mark.parametrize(("count", "starts"), [(0, [0]), (64, [0]), (65, [0, 1]), (112, [0, 48]), (113, [0, 48, 49])])
def test_windows_are_whole_and_overlap(count: int, starts: list[int]) -> None:
    ids = list(range(count))
    assert list(cut(ids, 64, 16)) == [ids[start : start + 64] for start in starts]


@given(st.integers(0, 600), st.integers(64, 200), st.integers(0, 32))
def test_windows_cover_the_text(count: int, size: int, overlap: int) -> None:
    windows = list(cut(list(range(count)), size, overlap))
    assert [id for window in windows for id in window[:1]] == sorted({window[0] for window in windows if window})
    assert {id for window in windows for id in window} == set(range(count))
    assert all(len(window) == min(count, size) for window in windows)
    assert all(left[-1] - right[0] + 1 >= overlap for left, right in pairwise(windows))


def test_a_long_text_is_scored_in_windows_between_the_same_words() -> None:
    model = a_model(window_tokens=64, window_overlap=16)
    text = " ".join(f"{WORDS} {number}" for number in range(40))
    pieces = list(cut(a_tokenizer().untrusted(text), 64, 16))
    (bare,) = model.encode(a_content("~~", a_picture()), questions(2))
    tildes = tuple(a_tokenizer().untrusted("~~"))
    place = next(i for i in range(len(bare.tree.shared)) if bare.tree.shared[i : i + len(tildes)] == tildes)
    before, after = bare.tree.shared[:place], bare.tree.shared[place + len(tildes) :]
    windows = model.encode(a_content(text, a_picture()), questions(2))
    assert len(pieces) > 2
    assert [window.tree.shared for window in windows] == [(*before, *piece, *after) for piece in pieces]
    assert all(window.tree.branches == bare.tree.branches for window in windows)
    assert all(window.pictures is windows[0].pictures for window in windows)


def test_a_pictures_features_are_computed_once_for_all_its_windows() -> None:
    model = a_model(window_tokens=64, window_overlap=16)
    text = WORDS + " click the link" * 40
    windows = model.encode(a_content(text, a_picture(300, 200), a_picture(90, 300)), questions(2))
    assert len(windows) > 2
    crops = []
    tower = model.network.model.vision_embed_tokens.img_processor["vision_model"]
    hook = tower.register_forward_hook(lambda _module, args, _out: crops.append(len(args[0])))
    together = model.score(windows)
    hook.remove()
    assert sum(crops) == sum(1 + picture.rows * picture.cols for picture in windows[0].pictures), (
        "no crop twice, none of padding"
    )
    for window, row in zip(windows, together, strict=True):
        (own,) = model.score([window])
        assert max(abs(a.margin - b.margin) for a, b in zip(own, row, strict=True)) < 1e-4


def test_a_step_is_filled_by_what_pictures_take_too() -> None:
    model = a_model(window_tokens=64, window_overlap=16)
    (text,) = model.encode(a_content(WORDS), questions(2))
    assert text.tokens == text.tree.tokens
    first, *others = model.encode(a_content(WORDS + " click the link" * 40, a_picture(300, 200)), questions(2))
    work = len(first.pictures[0]) * model.network.config.crop_work
    assert first.tokens == first.tree.tokens + work > first.tree.tokens
    assert all(window.tokens == window.tree.tokens for window in others), "the tower runs once for a post's pictures"


def test_the_layer_whose_output_is_dropped_is_not_loaded() -> None:
    names = a_model().network.state_dict().keys()
    layers = {name.split(".layers.")[1].split(".")[0] for name in names if "vision_model.encoder.layers." in name}
    assert layers == {"0", "1"}
    assert not [name for name in names if "post_layernorm" in name]


def test_the_order_of_locals_and_global_is_the_configs() -> None:
    model = family.load(settings())
    (window,) = model.encode(a_content("", a_picture(300, 200)), questions(1))
    with torch.inference_mode():
        (first,) = model.network.embed_images(window.pictures)
        model.network.model.vision_embed_tokens.locals_first = False
        (second,) = model.network.embed_images(window.pictures)
    whole = 4 * 5  # a crop's 4 x 4 tokens and the ends of its rows; one token stands between it and the local crops
    torch.testing.assert_close(second, torch.cat([first[-whole:], first[-whole - 1 : -whole], first[: -whole - 1]]))


def test_a_question_longer_than_the_allowance_names_its_policy() -> None:
    long = Question("verbose", "dog " * (LONGEST_QUESTION + 1))
    with pytest.raises(ConfigError, match=r"policy verbose: its question takes \d+ tokens of 1024"):
        a_model().encode(a_content("x"), [long])


def test_a_picture_beyond_the_context_hides_neither_text_nor_other_pictures() -> None:
    model = family.load(settings())
    (whole,) = model.encode(a_content("x", a_picture()), questions(1))
    model.checkpoint.context = len(whole.tree.shared) * 4 // 3 + 4  # of which a question may take a quarter
    assert model.encode(a_content("x", a_picture()), questions(1)).problems == ()
    three = model.encode(a_content("x", *[a_picture()] * 3), questions(1))
    assert (len(three), three.problems) == (3, ()), "each picture in a prompt of its own"
    model.checkpoint.context = len(whole.tree.shared)
    (text,) = windows = model.encode(a_content("x", a_picture()), questions(1))
    assert (text.pictures, windows.problems) == ((), (Problem(Reason.IMAGE_TOO_LARGE, "pictures[0]"),))
    with pytest.raises(PostError) as caught:
        model.encode(a_content("", a_picture()), questions(1))
    assert caught.value.problem == Problem(Reason.IMAGE_TOO_LARGE, "images")
    model.checkpoint.context = 40
    with pytest.raises(PostError, match="no room for a text") as caught:
        model.encode(a_content("x"), questions(1))
    assert caught.value.reason is Reason.MODEL_FAILED, "no post is at fault"


def test_a_picture_that_leaves_little_room_is_shown_with_short_stretches_of_the_text() -> None:
    model = family.load(settings(window_tokens=256, window_overlap=0, max_windows=4))
    (bare,) = model.encode(a_content("", a_picture()), questions(1))
    model.checkpoint.context = (len(bare.tree.shared) + SHORTEST + 2) * 4 // 3
    windows = model.encode(a_content("dog " * 1000, a_picture()), questions(1))
    assert [len(window.pictures) for window in windows] == [1] * 4
    assert windows.problems == (TOO_LONG,)
    assert all(len(window.tree.shared) <= len(bare.tree.shared) + SHORTEST + 2 for window in windows)


def test_of_too_many_pictures_the_first_groups_are_shown_with_the_ends_of_the_text() -> None:
    model = family.load(settings(window_tokens=64, window_overlap=0, max_windows=6))
    (whole,) = model.encode(a_content("~", a_picture()), questions(1))
    model.checkpoint.context = len(whole.tree.shared) * 2
    pictures = [a_picture(seed=seed) for seed in range(6)]
    text = " ".join(f"dog{number}" for number in range(200))
    windows = model.encode(a_content(text, *pictures), questions(1))
    everything = model.checkpoint.encode_pictures(pictures)
    shown = [window.pictures[0].digest for window in windows]
    assert shown == [picture.digest for picture in everything[:2] for _ in range(3)]
    assert windows.problems == (Problem(Reason.TOO_MANY_IMAGES, "images"), TOO_LONG)
    ids = tuple(a_tokenizer().untrusted(text))
    for place, part in ((0, ids[:64]), (2, ids[-64:])):
        assert " ".join(map(str, part)) in " ".join(map(str, windows[place].tree.shared))


@hypothesis.settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(0, 400), st.integers(240, 3_000), st.integers(1, 9))
def test_whatever_the_limits_windows_fit_and_what_they_leave_out_is_said(
    pictures: int, words: int, context: int, most: int
) -> None:
    model = limited(most, context)
    content = a_content(" ".join(map(str, range(words))), *[a_picture(seed=seed) for seed in range(pictures)])
    try:
        windows = model.encode(content, questions(1))
    except PostError as error:
        assert not words, "a text is always judged"
        assert error.problem == Problem(Reason.IMAGE_TOO_LARGE, "images")
        return
    assert 1 <= len(windows) <= most
    assert all(len(window.tree.shared) + model.longest_question <= context for window in windows)
    shown = list(dict.fromkeys(picture.digest for window in windows for picture in window.pictures))
    every = [picture.digest for picture in model.checkpoint.encode_pictures(content.pictures)]
    assert shown == every[: len(shown)]
    reasons = {problem.reason for problem in windows.problems}
    assert bool(reasons & {Reason.TOO_MANY_IMAGES, Reason.IMAGE_TOO_LARGE}) == (shown != every)
    ids = [" ".join(map(str, window.tree.shared)) for window in windows]
    text = a_tokenizer().untrusted(content.text)
    held = {word for word in map(str, text) if any(f" {word} " in f" {window} " for window in ids)}
    assert Reason.TEXT_TOO_LONG in reasons or held == set(map(str, text))
    assert " ".join(map(str, text[:8])) in ids[0]
    assert most < 2 or " ".join(map(str, text[-8:])) in ids[-1]


def limited(most: int, context: int) -> Phi3Vision:
    """A model whose limits are these."""
    model = a_model(window_tokens=64, window_overlap=16)
    limits = settings(window_tokens=64, window_overlap=16, max_windows=most)
    changed = VisionClassifier(model.info, model.network, copy(model.checkpoint), limits)
    changed.checkpoint.context = context
    return changed


def test_a_picture_that_the_model_cannot_take_hides_nothing_else() -> None:
    model = a_model()
    thin, good = Image.new("RGB", (4000, 1)), a_picture()
    windows = model.encode(a_content("x", thin, good, thin), questions(1))
    (expected,) = model.encode(a_content("x", good), questions(1))
    assert [window.tree.shared for window in windows] == [expected.tree.shared]
    assert windows.problems == tuple(Problem(Reason.IMAGE_SHAPE, f"pictures[{number}]") for number in (0, 2))
    (text,) = model.encode(a_content("x", thin), questions(1))
    assert text.pictures == ()
    with pytest.raises(PostError) as caught:
        model.encode(a_content("", thin), questions(1))
    assert caught.value.problem == Problem(Reason.IMAGE_SHAPE, "images")


@pytest.mark.parametrize("count", [300, 3_000], ids=["long", "very long"])
@pytest.mark.parametrize("most", [1, 2, 5])
def test_of_too_long_a_text_the_first_window_the_last_and_some_between_are_judged(count: int, most: int) -> None:
    model = a_model(window_tokens=64, window_overlap=0, max_windows=most)
    (bare,) = model.encode(a_content("~"), questions(1))
    text = " ".join(f"n{number}" for number in range(count))
    ids = tuple(a_tokenizer().untrusted(text))
    windows = model.encode(a_content(text), questions(1))
    again = model.encode(a_content(text), questions(1))
    fixed = len(bare.tree.shared) - len(a_tokenizer().untrusted("~"))
    before = next(n for n, (a, b) in enumerate(zip(windows[0].tree.shared, bare.tree.shared, strict=False)) if a != b)
    shown = [window.tree.shared[before : len(window.tree.shared) - fixed + before] for window in windows]
    assert windows.problems == (TOO_LONG,)
    assert [len(part) for part in shown] == [64] * most
    assert shown[0] == ids[:64]
    assert most == 1 or shown[-1] == ids[-64:]
    assert [window.tree.shared for window in again] == [window.tree.shared for window in windows]
    words = [re.findall(r"n(\d+) ", a_tokenizer()._trusted.decode(part)) for part in shown]
    begins = [int(numbers[1]) / count for numbers in words]
    assert all(abs((right - left) * (most - 1) - 1) < 0.2 for left, right in pairwise(begins)), "evenly"


@pytest.mark.parametrize(("context", "held"), [(2_048, 18_688), (3_072, 28_928), (8_192, 28_928), (131_072, 28_928)])
def test_a_context_holds_the_tokens_that_the_page_on_long_texts_says(context: int, held: int) -> None:
    model = family.load(settings())
    model.checkpoint.context = context
    text = "dog " * (held - 1)
    assert held - 2 <= len(a_tokenizer().untrusted(text)) <= held
    assert model.encode(a_content(text), questions(1)).problems == ()
    assert model.encode(a_content(text + "dog " * (held // 10)), questions(1)).problems == (TOO_LONG,)


def test_a_very_long_text_costs_no_more_than_its_windows() -> None:
    tokenised: list[int] = []

    def count(text: str) -> list[int]:
        tokenised.append(len(text.encode()))
        return list(range(len(text) // 4))

    text = UserText("word " * 1_000_000, count, ModelSettings())
    assert [len(part) for part in text.some(2048, 16)] == [2048] * 16
    assert sum(tokenised) == 16 * 2048 * BYTES_A_TOKEN
    assert text.stretches(2048) > 16


def test_a_foreign_item_is_refused() -> None:
    with pytest.raises(TypeError, match="another model"):
        a_model().score(Fake().encode(a_content("x"), questions(1)))


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nsecond line"), DeviceError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"), DeviceError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), torch.OutOfMemoryError),
        (torch.AcceleratorError("CUDA error: out of memory"), torch.OutOfMemoryError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), torch.OutOfMemoryError),
        (RuntimeError("shapes do not match"), RuntimeError),
    ],
)
def test_a_sick_device_and_a_full_one_raise_different_errors(raised: Exception, expected: type[Exception]) -> None:
    model = family.load(settings())

    def fail(*_: object) -> None:
        raise raised

    model.network.register_forward_pre_hook(fail)
    with pytest.raises(expected) as caught:
        model.score(model.encode(a_content("x"), questions(1)))
    assert type(caught.value) is expected
    assert "second line" not in str(caught.value)


def test_logits_that_are_not_finite_are_no_score() -> None:
    model = family.load(settings())
    model.network.lm_head.weight[5] = float("inf")
    with pytest.raises(ArithmeticError):
        model.score(model.encode(a_content("x"), questions(1)))


def test_bfloat16_agrees_in_the_main() -> None:
    full, half = a_model(), a_model(dtype="bfloat16")
    contents = [a_content(WORDS), a_content("free money", a_picture())]
    pairs = [
        (exact, rough)
        for content in contents
        for exact, rough in zip(
            full.score(full.encode(content, questions(6)))[0],
            half.score(half.encode(content, questions(6)))[0],
            strict=True,
        )
    ]
    assert max(abs(exact.margin - rough.margin) for exact, rough in pairs) < 0.5
    assert min(mass_of(rough) for _, rough in pairs) > 0.9
    steps = {rough.margin * 8 % 1 for _, rough in pairs}
    assert len(steps) > 2, "margins are not rounded to bfloat16's steps"


def test_the_digest_covers_the_options_that_change_scores() -> None:
    info = a_model().info
    assert (info.name, info.revision, len(info.digest)) == ("seeded", "", 64)
    assert family.load(settings()).info == info
    for knobs in ({"num_crops": 2}, {"dtype": "bfloat16"}, {"window_tokens": 100, "window_overlap": 5}):
        assert a_model(**knobs).info.digest != info.digest
    assert a_model(num_crops=4).info.digest == info.digest, "the checkpoint's own setting, said aloud"


def test_cuda_must_be_there_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        family.load(settings(device="cuda"))


def test_a_checkpoint_is_loaded_by_the_family_in_its_config() -> None:
    assert isinstance(models.load(settings()), VisionClassifier)


@pytest.mark.parametrize(
    ("name", "constants"),
    [
        ("phi3", {"OPEN": ["<|system|>\n"], "CLOSE": ["<|assistant|>\n"], "YES": ["dog"], "NO": ["cat"]}),
        (
            "h2ovl",
            {
                "MARKERS": [re.compile(r"(?<=<\|)(?=(?:prompt|answer|end)\|>)")],
                "IMAGE": ["</img>"],
                "IMAGE_END": ["<img>"],
                "YES": ["No"],
                "NO": ["Yes"],
            },
        ),
        (
            "tinyllava",
            {
                "PHI": [replace(PHI, **part) for part in ({"opening": "A"}, {"closing": "B"}, {"yes": PHI.no})],
                "ROLE": [re.compile("x")],
            },
        ),
        (
            "tinygptv",
            {
                "OPEN": ["<"],
                "CLOSE": [">"],
                "STRUCTURE": [re.compile("x")],
                "YES": [("No",)],
                "NO": [("yes",)],
            },
        ),
    ],
)
def test_whatever_the_template_holds_is_in_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, constants: dict[str, list[object]]
) -> None:
    module = importlib.import_module(f"moderation.models.{name}.template")
    folder = seeded(tmp_path / name, name)

    def digest() -> str:
        return loading.load(models.family(str(folder)), settings(name=str(folder))).info.digest

    before = digest()
    assert digest() == before
    for constant, other in ((constant, other) for constant, others in constants.items() for other in others):
        with monkeypatch.context() as patch:
            patch.setattr(module, constant, other)
            assert digest() != before, constant
    template = next(value for kind, value in vars(module).items() if kind.endswith("Template"))
    monkeypatch.setattr(template, "pictures_first", not template.pictures_first)
    assert digest() != before
