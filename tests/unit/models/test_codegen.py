"""Phi-2's slow tokenizer files give one tokenizer, and each fault in them is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.dev.checkpoint import seeded
from moderation.errors import ConfigError
from moderation.models.shared import codegen
from moderation.models.shared.tokenizer import Tokenizer

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeded(tmp_path_factory.mktemp("codegen") / "seeded", "tinyllava")


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in source.iterdir():
        if path.suffix in {".json", ".txt"}:
            shutil.copy(path, copy)
    return copy


@cache
def of(folder: Path) -> Tokenizer:
    return codegen.tokenizer(folder)


def test_words_take_the_space_before_them(source: Path) -> None:
    vocabulary = json.loads((source / "vocab.json").read_text())
    tokens = ["ĠYes", "ĠUSER", ":", "Ġ", "Ã", "©"]
    assert of(source).trusted(" Yes USER: é") == [vocabulary[token] for token in tokens]
    assert of(source).word(" No") == vocabulary["ĠNo"]


def test_runs_of_spaces_are_words_of_a_users_too(source: Path) -> None:
    added = json.loads((source / "added_tokens.json").read_text())
    tokenizer = of(source)
    for run in (" " * 2, " " * 31, "\t" * 9):
        assert tokenizer.untrusted(f"a{run}b")[1] == added[run] == tokenizer.trusted(f"a{run}b")[1]
        assert added[run] not in tokenizer.added
    assert tokenizer.untrusted("a" + " " * 33 + "b")[1:3] == [added[" " * 31], added[" " * 2]]


def test_the_end_of_a_text_is_structure(source: Path) -> None:
    end = json.loads((source / "vocab.json").read_text())[END]
    tokenizer = of(source)
    assert tokenizer.added == {end}
    assert tokenizer.trusted(f"a{END}b").count(end) == 1
    assert tokenizer.size == end + 1 + 38


@given(st.lists(st.one_of(st.sampled_from([END, "  ", "\t\t", " ", "\n", "<|endoftext", "|>"]), st.text()), max_size=8))
def test_no_text_becomes_structure_and_all_of_it_stays(source: Path, parts: list[str]) -> None:
    text = "".join(part.encode(errors="replace").decode() for part in parts)
    ids = of(source).untrusted(text)
    assert of(source).added.isdisjoint(ids)
    if END not in text:
        assert ids == of(source).trusted(text)
        assert ids == of(source).untrusted(text, joined=True)


def test_without_flags_the_tokens_are_the_same(source: Path, folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    older = codegen.tokenizer(folder)
    text = f"a  b\t\t\tc{END}   d"
    assert older.trusted(text) == of(source).trusted(text)
    assert older.added == of(source).added


def test_a_tokenizer_json_stands_alone(folder: Path) -> None:
    (folder / "vocab.json").unlink()
    (folder / "tokenizer.json").write_text("{}")
    assert codegen.files(folder) == [folder / "tokenizer.json"]
    with pytest.raises(ConfigError, match=r"tokenizer\.json: not a tokenizer"):
        codegen.tokenizer(folder)


def without_a_byte(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    del vocabulary["Ġ"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))


def without_a_token(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    del vocabulary["ĠYes"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary))


def twice_the_same_id(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary["ĠYes"] = 0
    (folder / "vocab.json").write_text(json.dumps(vocabulary))


def of_another_checkpoint(folder: Path) -> None:
    whole = json.loads((folder / "tokenizer_config.json").read_text())
    whole["added_tokens_decoder"] = {
        str(int(id) + 50_000): token for id, token in whole["added_tokens_decoder"].items()
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(whole))


def unreadable_tokens(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": [END]}))


def with_a_key(key: str) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: True}))

    return edit


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda folder: (folder / "merges.txt").unlink(), r"merges\.txt is missing"),
        (lambda folder: (folder / "vocab.json").unlink(), r"vocab\.json is missing"),
        (lambda folder: (folder / "vocab.json").write_text("{"), r"vocab\.json: not readable as JSON"),
        (lambda folder: (folder / "merges.txt").write_bytes(b"\xff"), r"merges\.txt: not readable as text"),
        (lambda folder: (folder / "merges.txt").write_text("#version\nĠ\n"), r"merges\.txt: line 2 merges no two"),
        (without_a_byte, r"vocab\.json: 1 of the 256 bytes have no token \('Ġ'\)"),
        (without_a_token, r"merges\.txt: line \d+ merges no two tokens of vocab\.json"),
        (twice_the_same_id, r"vocab\.json: not every token has an id of its own"),
        (of_another_checkpoint, r"has id \d+, and vocab\.json leaves \d+ for it; they are not of one checkpoint"),
        (with_a_key("add_bos_token"), r"tokenizer_config\.json: add_bos_token is True; only false is supported"),
        (with_a_key("add_prefix_space"), r"tokenizer_config\.json: add_prefix_space is True; only false is"),
        (unreadable_tokens, r"tokenizer_config\.json: the added tokens are not readable"),
    ],
)
def test_a_fault_is_named(folder: Path, fault: Callable[[Path], object], message: str) -> None:
    fault(folder)
    with pytest.raises(ConfigError, match=message):
        codegen.tokenizer(folder)
