"""How long a text may be: each figure of deploy/README.md, by the tokenizer that it is about.

The published tokenizers are in ../shared/golden or in MODERATION_TEST_GOLDEN. Without them their columns are skipped.
"""

from __future__ import annotations

import json
import lzma
import os
import random
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from moderation import models
from moderation.models.h2ovl.tokenizer import CONFIG, MODEL
from moderation.models.h2ovl.tokenizer import Tokenizer as Pieces
from moderation.models.remote import content as contents
from moderation.models.shared import codegen
from moderation.models.shared.classifier import VisionClassifier
from moderation.models.shared.tokenizer import Tokenizer
from moderation.models.shared.user_text import UserText
from moderation.settings import ModelSettings
from moderation.types import Content, Question
from tests.support.prose import PROSE, prose
from tests.support.repository import REPO

GOLDEN = Path(
    os.environ.get("MODERATION_TEST_GOLDEN") or Path(__file__).parents[3] / ".." / "shared" / "golden"
).resolve()
DEFAULTS = ModelSettings()
OURS = LEAST, SERVER, DEMO = "any family, at least", "a model server", "`demo`"
PAGE = (REPO / "deploy/README.md").read_text("utf-8").partition("## How long a text may be")[2].partition("\n## ")[0]

Tokenise = Callable[[str], list[int]]


def figures() -> list[tuple[str, str, int]]:
    """Column, script and characters of the page's table."""
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("|")
    ]
    return [
        (column, script, int(figure.replace(",", "")))
        for script, *cells in rows
        for column, figure in zip(head[1:], cells, strict=True)
    ]


@cache
def demo() -> VisionClassifier:  # type: ignore[type-arg]
    model = models.load(ModelSettings(name="demo", device="cpu"))
    assert isinstance(model, VisionClassifier)
    return model


@pytest.fixture(scope="module")
def tokenisers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenise]:
    """The published ones, by the column of the table."""
    if not (GOLDEN / "tokenizer.json").exists():
        pytest.skip(f"no published tokenizers in {GOLDEN}: how long a text may be is NOT checked")
    h2ovl, phi2 = tmp_path_factory.mktemp("h2ovl"), tmp_path_factory.mktemp("phi2")
    (h2ovl / MODEL).write_bytes(lzma.decompress((GOLDEN / "h2ovl_tokenizer.model.xz").read_bytes()))
    (h2ovl / CONFIG).write_bytes((GOLDEN / "h2ovl_800m" / CONFIG).read_bytes())
    merges = lzma.decompress((GOLDEN / "tinyllava" / "phi2_merges.txt.xz").read_bytes()).decode().splitlines()
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(merge.replace(" ", "") for merge in merges), codegen.END]
    (phi2 / codegen.VOCABULARY).write_text(json.dumps({word: id for id, word in enumerate(words)}), "utf-8")
    (phi2 / codegen.MERGES).write_text("\n".join(["#version: 0.2", *merges]) + "\n", "utf-8")
    (phi2 / codegen.CONFIG).write_bytes((GOLDEN / "tinyllava" / codegen.CONFIG).read_bytes())
    return {
        "Phi-3-Vision": Tokenizer(GOLDEN).untrusted,
        "H2OVL-Mississippi": Pieces(h2ovl).continuing,
        "Phi-2": codegen.tokenizer(phi2).untrusted,
    }


def whole(tokenise: Tokenise, text: str) -> bool:
    """Whether a text is judged as a whole, in windows of the default size."""
    return UserText(text, tokenise, DEFAULTS).stretches(DEFAULTS.window_tokens) <= DEFAULTS.max_windows


def bytes_of(text: str) -> list[int]:
    """The worst tokenizer: one that knows no word, and puts a token in front of each text."""
    return [0, *text.encode()]


def test_the_page_has_the_tokens_of_the_default_settings() -> None:
    most, size, overlap = DEFAULTS.max_windows, DEFAULTS.window_tokens, DEFAULTS.window_overlap
    assert f"{most} windows of {size:,} tokens, each with {overlap} of\nthe one before" in PAGE
    assert f"hold {most * (size - overlap) + overlap:,} tokens" in PAGE
    assert [script for column, script, _ in figures() if column == LEAST] == list(PROSE)


@pytest.mark.parametrize(("column", "script", "characters"), [row for row in figures() if row[0] in OURS])
def test_a_text_of_the_documented_length_is_judged_as_a_whole(column: str, script: str, characters: int) -> None:
    letters = "".join(re.findall(r"\w", PROSE[script])) * 1000

    def fits(characters: int) -> bool:
        content = Content(letters[:characters] if column == LEAST else prose(script, characters), (), "")
        if column == LEAST:
            return whole(bytes_of, content.text)
        if column == SERVER:
            return not contents.windows(content, [], DEFAULTS).problems
        return not demo().encode(content, [Question("q", "Is it?")]).problems

    assert fits(characters)
    assert not fits(characters + characters // 25), "the page says less than is true"


@pytest.mark.parametrize(("column", "script", "characters"), [row for row in figures() if row[0] not in OURS])
def test_a_published_tokenizer_takes_the_documented_length(
    tokenisers: dict[str, Tokenise], column: str, script: str, characters: int
) -> None:
    assert whole(tokenisers[column], prose(script, characters))
    assert not whole(tokenisers[column], prose(script, characters + characters // 25)), "the page says too little"


def test_a_published_token_is_a_byte_or_more(tokenisers: dict[str, Tokenise]) -> None:
    dice = random.Random(17)
    for _ in range(300):
        text = "".join(chr(dice.choice((dice.randrange(32, 127), dice.randrange(0xA0, 0xD7FF)))) for _ in range(60))
        for name, tokenise in tokenisers.items():
            assert len(tokenise(text)) <= len(text.encode()) + 1, (name, text)
