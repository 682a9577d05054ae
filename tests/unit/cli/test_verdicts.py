"""`submit`, `get` and `watch` refuse options that are empty, and say what to do where no API is."""

from __future__ import annotations

import socket

import pytest

from moderation.cli.verdicts import get, submit, watch
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


def test_an_api_that_is_not_there(nowhere: str) -> None:
    with pytest.raises(CallError, match=rf"{nowhere}: UNAVAILABLE: .*; is an API running there\? --api HOST:PORT"):
        get(["42"], address=nowhere)
    with pytest.raises(CallError, match="is an API running there"):
        watch(address=nowhere)
