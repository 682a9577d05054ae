"""Ordinary sentences get no second window, in any language."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from pathlib import Path

import pytest

from moderation.normal_form import normal_form

SENTENCES: dict[str, list[str]] = defaultdict(list)  # by language
for line in Path(__file__).with_name("sentences.txt").read_text("utf-8").splitlines():
    if line.startswith("# "):
        language = line.removeprefix("# ")
    else:
        SENTENCES[language].append(line)
EVERY = [sentence for sentences in SENTENCES.values() for sentence in sentences]
MOST = 0.01  # of all sentences


def changed(sentences: list[str]) -> list[tuple[str, str]]:
    return [(sentence, form) for sentence in sentences if (form := normal_form(sentence)) != sentence]


def test_the_sentences_are_hundreds_in_more_than_twenty_languages() -> None:
    assert len([sentences for sentences in SENTENCES.values() if len(sentences) >= 20]) >= 20
    assert len(EVERY) > 500


def test_of_ordinary_sentences_at_most_one_in_a_hundred_gets_a_second_window() -> None:
    differing = changed(EVERY)
    assert len(differing) <= MOST * len(EVERY), differing


@pytest.mark.parametrize("language", SENTENCES)
def test_no_language_is_worse_off(language: str) -> None:
    differing = changed(SENTENCES[language])
    assert len(differing) <= max(1, 2 * MOST * len(SENTENCES[language])), differing


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_composed_and_decomposed_accents_are_the_same_to_readers(form: str) -> None:
    sentences = [unicodedata.normalize(form, sentence) for sentence in EVERY]  # type: ignore[arg-type]
    differing = changed(sentences)
    assert len(differing) <= MOST * len(EVERY), differing


def test_a_long_post_of_ordinary_sentences_gets_none_either() -> None:
    differing = [name for name, sentences in SENTENCES.items() if changed([" ".join(sentences)])]
    assert len(differing) <= 1, differing
    differing = [name for name, sentences in SENTENCES.items() if changed(["\n".join(sentences)])]
    assert len(differing) <= 1, differing
