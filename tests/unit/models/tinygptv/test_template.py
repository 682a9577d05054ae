"""The templates on token level: as the original's, and out of reach of a user's words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from moderation.dev.checkpoint import seeded
from moderation.models.shared import template as shared
from moderation.models.shared.tokenizer import Tokenizer
from moderation.models.tinygptv.template import NO, TURNS, YES, TinyGptvTemplate
from moderation.policies import prompts
from moderation.policies.prompts import INSTRUCTIONS, NO_TEXT
from tests.support.small_model import a_content, a_picture
from tests.support.tinygptv_artefacts import seeded_folder

ARCHS = tuple(TURNS)
STRUCTURE = (
    "###", "####", "###Human:", "###Assistant:", " ###Assistant: ", "###Human: <Img>", "<Img>", " <Img>", "</Img>",
    "</Img> ", "<s>[INST] ", "[INST]", " [INST]", "[/INST]", " [/INST]", "[vqa]", "<|endoftext|>",
)  # fmt: skip


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer(seeded_folder())


@cache
def engine() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(seeded_folder() / "tokenizer.json"))


@cache
def template(arch: str) -> TinyGptvTemplate:
    return TinyGptvTemplate(tokenizer(), arch)


def has(ids: Sequence[int], part: Sequence[int]) -> bool:
    return any(list(ids[start : start + len(part)]) == list(part) for start in range(len(ids)))


def shared_ids(arch: str, text: str, pictures: int) -> list[int]:
    content = a_content(text, *[a_picture(20, 20, seed=seed) for seed in range(pictures)])
    parts = prompts.render(content, (), pictures_first=template(arch).pictures_first).shared
    return [id for _, ids in shared.runs(template(arch), parts, [3] * pictures) for id in ids]


@pytest.mark.parametrize("arch", ARCHS)
def test_a_prompt_is_the_originals(arch: str) -> None:
    """Text, slots and text, where the original cuts its prompt at <ImageHere>."""
    start, end = TURNS[arch]
    question = "Is it spam?\nAnswer with one word, Yes or No."
    ids = shared_ids(arch, "", 1) + template(arch).question(question)
    before, after = f"{start}<Img>", f"</Img> {INSTRUCTIONS}\n{NO_TEXT}\n{question}{end}"
    assert ids == [*tokenizer().trusted(before), -1, -1, -1, *tokenizer().trusted(after)]


@pytest.mark.parametrize("arch", ARCHS)
def test_a_prompt_without_a_picture(arch: str) -> None:
    start, end = TURNS[arch]
    ids = shared_ids(arch, "", 0) + template(arch).question("Is it?")
    assert ids == tokenizer().trusted(f"{start}{INSTRUCTIONS}\n{NO_TEXT}\nIs it?{end}")


@pytest.mark.parametrize("arch", ARCHS)
def test_two_pictures_have_a_frame_each(arch: str) -> None:
    ids = shared_ids(arch, "", 2)
    start = tokenizer().trusted(f"{TURNS[arch][0]}<Img>")
    between = tokenizer().trusted("</Img> ") + tokenizer().trusted("<Img>")
    expected = [*start, -1, -1, -1, *between, -2, -2, -2]
    assert ids[: len(expected)] == expected


def test_answers_in_each_case_count() -> None:
    yes, no = template("minigpt4").answers
    assert [engine().id_to_token(id) for id in yes] == list(YES) == ["Yes", "yes"]
    assert [engine().id_to_token(id) for id in no] == list(NO) == ["No", "no"]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("spelling", STRUCTURE)
def test_a_users_structure_stays_text(arch: str, spelling: str) -> None:
    """No spelling gives the ids of the template's own structure, wherever it stands in a user's words."""
    own = [tokenizer().trusted(each) for each in (spelling, spelling.strip())]
    for text in (spelling, f"a{spelling}b", f"a {spelling} b", spelling * 3, f"<Img{spelling}>"):
        ids = template(arch).user_text(text)
        assert not [part for part in own if has(ids, part)], text
        assert not set(template(arch).reserved) & set(ids)
        assert min(ids) >= 0
        assert engine().decode(ids, skip_special_tokens=False) == text, "nothing is lost"


FRAGMENTS = st.sampled_from(
    [*STRUCTURE, "#", "##", "[", "]", "<", ">", "/", "Img", "INST", " ", "\n", "Yes", "é", "🎉"]
)


@given(st.lists(st.one_of(FRAGMENTS, st.text(max_size=4)), max_size=12), st.sampled_from(ARCHS))
def test_no_text_of_a_user_gives_structure(parts: list[str], arch: str) -> None:
    text = "".join(parts).encode("utf-8", "ignore").decode()
    ids = template(arch).user_text(text)
    assert not set(template(arch).reserved) & set(ids)
    for marker in ("###", "<Img>", " <Img>", "</Img>", "[INST]", " [INST]", "[/INST]", " [/INST]", "[vqa]"):
        assert not has(ids, tokenizer().trusted(marker)), marker
    assert engine().decode(ids, skip_special_tokens=False) == text


def test_the_separator_is_reserved(tmp_path: Path) -> None:
    """`###` is one token, which ends a turn. A tokenizer without it reserves no other token in its place."""
    assert set(tokenizer().trusted("###")) <= set(template("minigpt4").reserved)
    path = seeded(tmp_path / "other", "tinygptv") / "tokenizer.json"
    path.write_text(path.read_text().replace('"## #",', ""))
    other = Tokenizer(path.parent)
    assert len(other.trusted("###")) > 1
    assert set(TinyGptvTemplate(other, "minigpt4").reserved) == set(other.added)
