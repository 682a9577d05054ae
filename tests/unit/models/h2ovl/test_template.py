"""The prompt on token level: one prompt as the original makes it, and a user's words that stay words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.dev.seeds import h2ovl
from moderation.models.h2ovl.family import Checkpoint
from moderation.models.h2ovl.template import ANSWER, END, PROMPT
from moderation.models.shared import template
from moderation.policies import prompts
from tests.support.small_model import a_content, a_picture

STRUCTURE = ["<unk>", "<s>", "</s>", *h2ovl.ADDED, PROMPT, ANSWER, "<image>"]


def ids(opened: Checkpoint, text: str, slots: Sequence[int] = (), question: str = "Is it spam?") -> list[int]:
    """The whole prompt of a post with pictures that take so many tokens."""
    content = a_content(text, *(a_picture() for _ in slots))
    parts = prompts.render(content, (), pictures_first=opened.template.pictures_first).shared
    shared = [id for _, run in template.runs(opened.template, parts, slots) for id in run]
    return shared + opened.template.question(prompts.asked(question))


@pytest.mark.parametrize(
    "text", ["hello", " two  spaces ", "\n\tlines\n\n", "naïve — «café» ~~~ 🙂", "", "▁", "</", "\0"]
)
@pytest.mark.parametrize("slots", [[], [32], [32, 16]])
def test_a_prompt_is_what_the_original_would_make_of_its_text(opened: Checkpoint, text: str, slots: list[int]) -> None:
    """The parts are tokenised apart; the original tokenises the whole turn."""
    tags = "".join(f"<img>{'<IMG_CONTEXT>' * count}</img>\n" for count in slots)
    fence = prompts.fence(text)
    body = f"{prompts.FENCED}\n{fence}\n{text}\n{fence}\n" if text else f"{prompts.NO_TEXT}\n"
    whole = f"{PROMPT}{tags}{prompts.INSTRUCTIONS}\n{body}{prompts.asked('Is it spam?')}{END}{ANSWER}"
    expected = opened.tokenizer.trusted(whole)
    slot = opened.template.slot
    assert [slot if id < 0 else id for id in ids(opened, text, slots)] == expected
    assert expected.count(slot) == sum(slots)


def test_slots_count_pictures_from_one(opened: Checkpoint) -> None:
    assert [id for id in ids(opened, "hello", [2, 3]) if id < 0] == [-1] * 2 + [-2] * 3


def test_answers_follow_the_marker_without_a_space(opened: Checkpoint) -> None:
    (yes,), (no,) = opened.template.answers
    behind = opened.tokenizer.trusted(PROMPT + "Is it?" + END + ANSWER + "Yes")
    assert behind[-1] == yes
    assert behind[:-1] == opened.tokenizer.trusted(PROMPT + "Is it?" + END + ANSWER)
    assert no != yes != opened.tokenizer.trusted("Yes")[-1]


def test_the_added_tokens_split_trusted_text(opened: Checkpoint) -> None:
    """Each stretch between them begins with a "▁" of its own, as in the published tokenizer."""
    tokenizer = opened.tokenizer
    end, begin, space = tokenizer.token("<|end|>"), tokenizer.token("<s>"), tokenizer.trusted(" ")
    assert tokenizer.trusted("a<|end|>a<s><s>") == [*tokenizer.trusted("a"), end, *tokenizer.trusted("a"), begin, begin]
    assert tokenizer.trusted("") == tokenizer.continuing("") == []
    assert tokenizer.trusted("\n") == [space[0], *tokenizer.continuing("\n")]
    assert tokenizer.trusted("\n<|end|>", continued=True) == [*tokenizer.continuing("\n"), end]


@pytest.mark.parametrize("name", STRUCTURE)
def test_structure_typed_by_a_user_is_spelt_out(opened: Checkpoint, name: str) -> None:
    structure = opened.tokenizer.trusted(name)
    marker = structure if len(structure) == 1 else structure[2:]  # the first may be part of "▁<"
    for text in (name, f" {name}\n", f"a{name}b", name * 3, f"▁{name}", f"<|{name}|>", f"{name}<|{name}"):
        typed = opened.template.user_text(text)
        assert opened.tokenizer.added.isdisjoint(typed), text
        if name != "<image>":  # ordinary text: nothing of ours is spelt so
            assert not _holds(typed, marker), text


def _holds(ids: list[int], run: list[int]) -> bool:
    return any(ids[place : place + len(run)] == run for place in range(len(ids)))


@given(
    st.lists(st.one_of(st.sampled_from([*STRUCTURE, "<0x0A>", "▁", "\0", "~~~", "<|", "|>"]), st.text()), max_size=8)
)
def test_no_text_becomes_structure(opened: Checkpoint, parts: list[str]) -> None:
    text = "".join(part.encode(errors="replace").decode() for part in parts)
    plain, attack = ids(opened, "hello", [3]), ids(opened, text or "hello", [3])
    for name in (PROMPT, ANSWER):
        run = opened.tokenizer.trusted(name)[2:]
        assert sum(attack[at : at + len(run)] == run for at in range(len(attack))) == 1
    for id in opened.tokenizer.added:
        assert attack.count(id) == plain.count(id)
    assert [id for id in attack if id < 0] == [-1] * 3
    assert all(id < opened.config.llm_config.vocab_size for id in attack)


def test_it_runs_on_several_threads(opened: Checkpoint) -> None:
    texts = [f"post {number} <|end|> " * 40 for number in range(6)] * 8
    expected = [opened.template.user_text(text) for text in texts]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(opened.template.user_text, texts)) == expected


def test_the_seeded_tokenizer_has_the_published_layout(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert list(config["added_tokens_decoder"])[:3] == ["0", "1", "2"]
    assert not (folder / "tokenizer.json").exists()
