"""A post as servers get it: windows that cover the text, control tokens that stay text, pictures of bounded size."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from moderation.models.remote import content as contents
from moderation.models.remote.wire import Window
from moderation.settings import ModelSettings
from moderation.types import Content, Problem, Question, Reason

QUESTIONS = (Question("a", "Is it?"), Question("b", "Is it not?"))


def a_content(text: str = "", *pictures: Image.Image) -> Content:
    return Content(text, pictures, "d")


def cut(text: str, **settings: int) -> list[str]:
    windows = contents.windows(a_content(text), QUESTIONS, ModelSettings(**({"max_windows": 10_000} | settings)))
    assert all(window.questions == QUESTIONS for window in windows)
    return [window.text for window in windows]


def joined(parts: list[str], whole: str) -> bool:
    """Whether the parts cover the whole in order, each from within the part before, or from its end."""
    place = 0
    for part in parts:
        begin = whole.rfind(part, 0, place + len(part))
        if begin < 0:
            return False
        place = max(place, begin + len(part))
    return place == len(whole)


@given(st.text(st.characters(exclude_characters="<[~", codec="utf-8"), max_size=600), st.integers(0, 32))
def test_windows_cover_the_text_and_cut_no_character(text: str, overlap: int) -> None:
    parts = cut(text, window_tokens=64, window_overlap=overlap)
    assert joined(parts, text)
    assert all(len(part.encode()) <= 64 * contents.BYTES_A_TOKEN + 3 for part in parts)


def test_a_window_has_the_tokens_that_the_settings_say() -> None:
    text = "".join(chr(0x4E00 + n) for n in range(1_000))
    parts = cut(text, window_tokens=256, window_overlap=56)
    assert [len(part) for part in parts] == [256] * 5
    assert [text.index(part) for part in parts] == [0, 200, 400, 600, 744]
    assert cut("") == [""]


@pytest.mark.parametrize(("most", "shown"), [(1, [0]), (2, [0, 9]), (4, [0, 3, 6, 9]), (10, range(10))])
def test_of_too_long_a_text_the_first_window_the_last_and_some_between_are_judged(
    most: int, shown: Sequence[int]
) -> None:
    text = "".join(f"{number:03}" for number in range(640))
    every = cut(text, window_tokens=64, window_overlap=0)
    settings = ModelSettings(window_tokens=64, window_overlap=0, max_windows=most)
    windows = contents.windows(a_content(text), QUESTIONS, settings)
    assert [window.text for window in windows] == [every[place] for place in shown]
    assert windows.problems == ((Problem(Reason.TEXT_TOO_LONG, "text"),) if most < len(every) else ())


def test_a_very_long_text_is_cut_in_no_time() -> None:
    """What takes seconds here takes minutes where a pattern looks at each sign many times."""
    text = ("<|im_end|>" * 10 + "<" * 100 + "[" * 100 + "<a" * 100) * 2_500  # a million signs
    started = time.process_time()
    assert len(contents.windows(a_content(text), QUESTIONS, ModelSettings())) == 16
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("spelt", "shown"),
    [
        ("<|im_start|>system", "‹|im_start|>system"),
        ("<｜User｜>", "‹｜User｜>"),
        ("<s>[INST] <<SYS>>x<</SYS>> [/INST]</s>", "‹s>⁅INST] ‹‹SYS>>x‹‹/SYS>> ⁅/INST]‹/s>"),
        ("<start_of_turn>model", "‹start_of_turn>model"),
        ("<image><IMG_CONTEXT></img><row_1_col_1>", "‹image>‹IMG_CONTEXT>‹/img>‹row_1_col_1>"),
        ("[IMG_BREAK][gMASK]<sop>[control_8]", "⁅IMG_BREAK]⁅gMASK]‹sop>⁅control_8]"),
        ("]~b]system ]<]x[e~[", "]∼b]system ]‹]x⁅e~["),
        ("<think>", "‹think>"),
        ("<|unclosed and spaced", "‹|unclosed and spaced"),
    ],
)
def test_a_spelling_of_a_control_token_becomes_text(spelt: str, shown: str) -> None:
    assert contents.harmless(spelt) == shown
    assert contents.harmless(shown) == shown


@pytest.mark.parametrize(
    "text", ["I <3 you", "5 < 6 and 7 > 6", "[a link](b)", "a[0]", "~~~", "<a href='x'>", "~gone~"]
)
def test_other_text_stays(text: str) -> None:
    assert contents.harmless(text) == text


@given(st.text("<>|/[]~abSEP_ ", max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_a_part_of_a_harmless_text_is_harmless(text: str, begin: int, end: int) -> None:
    part = contents.harmless(text)[begin:end]
    assert contents.harmless(part) == part


def test_windows_are_cut_from_harmless_text() -> None:
    assert all("<|" not in part for part in cut("<|im_end|>" * 200, window_tokens=64, window_overlap=0))


def test_pictures_are_jpeg_files_of_bounded_size() -> None:
    noise = Image.effect_noise((5_000, 2_500), 80).convert("RGB")
    (window,) = contents.windows(a_content("x", noise, Image.new("L", (40, 30), 200)), QUESTIONS, ModelSettings())
    (again,) = contents.windows(a_content("x", noise), QUESTIONS, ModelSettings())
    large, small = (Image.open(BytesIO(file)) for file in window.pictures)
    assert (large.format, large.mode, large.size) == ("JPEG", "RGB", (2_048, 1_024))
    assert (small.mode, small.size) == ("RGB", (40, 30))
    assert again.pictures[0] == window.pictures[0]
    assert noise.size == (5_000, 2_500)


def test_jpeg_keeps_all_of_the_colour() -> None:
    stripes = Image.new("RGB", (64, 64))
    for column in range(64):
        stripes.paste((255, 0, 0) if column % 2 else (0, 0, 255), (column, 0, column + 1, 64))
    (window,) = contents.windows(a_content("", stripes), QUESTIONS, ModelSettings())
    shown = Image.open(BytesIO(window.pictures[0]))
    red, _, blue = shown.getpixel((31, 31))  # type: ignore[misc]
    assert red > 230
    assert blue < 25


def a_window(text: str, pictures: int = 0) -> Window:
    (window,) = contents.windows(
        a_content(text, *[Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(pictures)]),
        QUESTIONS,
        ModelSettings(window_tokens=100_000),
    )
    return window


@given(st.text(st.characters(exclude_characters="<[~", codec="utf-8"), min_size=256, max_size=900))
def test_halves_cover_the_text_and_overlap(text: str) -> None:
    first, second = contents.halves(a_window(text))
    assert joined([first.text, second.text], text)
    assert len(first.text) + len(second.text) > len(text)
    assert max(len(first.text.encode()), len(second.text.encode())) <= len(text.encode()) * 5 / 8
    assert first.questions == second.questions == QUESTIONS
    assert first.tokens < a_window(text).tokens


def test_a_short_text_is_not_cut() -> None:
    assert contents.halves(a_window("x" * 255)) == []
    assert contents.halves(a_window("x" * 255, pictures=1)) == []


def test_pictures_are_shared_where_they_are_the_larger_part() -> None:
    window = a_window("x" * 300, pictures=3)
    first, second = contents.halves(window)
    assert first.text == second.text == window.text
    assert first.pictures + second.pictures == window.pictures
    assert (len(first.pictures), len(second.pictures)) == (1, 2)
    assert second.tokens - first.tokens == contents.PICTURE_TOKENS


def test_every_window_comes_to_an_end() -> None:
    window = a_window("x" * 100_000, pictures=5)
    depth = 0
    while halves := contents.halves(window):
        window = max(halves, key=lambda half: half.tokens)
        depth += 1
    assert depth <= 4 + math.log(100_000 / contents.SHORTEST, 8 / 5)


def test_text_is_cut_where_it_is_the_larger_part() -> None:
    window = a_window("x" * 9_000, pictures=2)
    first, second = contents.halves(window)
    assert first.pictures == second.pictures == window.pictures
    assert len(first.text) < 9_000
