"""`submit`, `get` and `watch` refuse options that are empty, and say what to do where no API is."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from moderation.cli.verdicts import get, latest, submit, watch
from moderation.client import CallError
from moderation.errors import ConfigError


@pytest.fixture
def nowhere() -> str:
    """An address on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_an_empty_id_is_refused(nowhere: str) -> None:
    with pytest.raises(ConfigError, match="--id is empty"):
        submit(text="x", id="", address=nowhere)


@pytest.mark.parametrize("after", ["", "no token!"])
def test_a_token_that_is_none_is_refused(nowhere: str, after: str) -> None:
    with pytest.raises(ConfigError, match="--after is not a consistency token"):
        watch(after=after, address=nowhere)


@pytest.mark.parametrize("outcome", ["unspecified", "removed", ""])
def test_an_outcome_that_is_none_is_refused(nowhere: str, outcome: str) -> None:
    for command in (watch, latest):
        with pytest.raises(ConfigError, match=f"--outcome must be allow, review or remove, not '{outcome}'"):
            command(outcome=["allow", outcome], address=nowhere)


@pytest.mark.parametrize("content", [b"", b"\n", b"a b", "ключ".encode(), b"\xff"])
def test_a_file_without_a_token_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    monkeypatch.setenv("MODERATION_CLIENT__TOKEN_FILE", str(file))
    with pytest.raises(ConfigError, match=f"{file}: no bearer token"):
        get(["42"], address="127.0.0.1:1")


def test_an_api_that_is_not_there(nowhere: str) -> None:
    with pytest.raises(CallError, match=rf"{nowhere}: UNAVAILABLE: .*; is an API running there\? --api HOST:PORT"):
        get(["42"], address=nowhere)
    with pytest.raises(CallError, match="is an API running there"):
        watch(address=nowhere)


def test_a_picture_without_bytes_is_named(nowhere: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path}/a.png: the file is empty"):
        submit(image=[tmp_path / "a.png"], address=nowhere)


def test_a_post_whose_fate_is_not_known_is_named_with_what_to_do() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,  # it accepts, and never speaks
        pytest.raises(CallError, match=r"DEADLINE_EXCEEDED.*the post 7 may have been accepted: .*`moderation get 7`"),
    ):
        submit(text="x", id="7", timeout=0.1, address=f"127.0.0.1:{silent.getsockname()[1]}")


def test_a_wrong_language_of_a_post_is_told(nowhere: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CallError):
        submit(text="x", language="english", surface="profile", tenant="shop", address=nowhere)
    assert "the language 'english' is not a BCP 47 tag: no policy is excluded by it" in capsys.readouterr().err
