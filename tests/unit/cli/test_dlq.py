"""`moderation dlq`: times, positions and mistakes in options. tests/integration/dead_letters has the rest."""

from __future__ import annotations

import time

import pytest
from typer.testing import CliRunner

from moderation.cli.app import app
from moderation.cli.dlq import _place, _time


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1_800), ("6h", 21_600), ("2d", 172_800)])
def test_a_time_may_be_so_long_ago(text: str, seconds: int) -> None:
    at = _time(text, "--since")
    assert at is not None
    assert abs(time.time() * 1000 - seconds * 1000 - at) < 60_000


def test_a_time_without_a_zone_is_utc() -> None:
    assert _time("2026-01-31T22:00", "--since") == 1_769_896_800_000
    assert _time("2026-01-31T23:00+01:00", "--since") == 1_769_896_800_000
    assert _time(None, "--since") is None


def test_a_position_may_name_its_topic() -> None:
    assert _place("3/17") == _place("posts.moderation.dlq/3/17") == (3, 17)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "--since", "yesterday"], "--since must be like 30m"),
        (["list", "--reason", "GONE"], "--reason: there is no GONE"),
        (["replay", "17"], "'17' is no position"),
        (["show", "a/b"], "'a/b' is no position"),
    ],
)
def test_options_that_cannot_be_read_are_named(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["dlq", *arguments])
    assert message in str(result.exception)
