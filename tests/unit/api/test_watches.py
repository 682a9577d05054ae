"""Where a watch begins, by the life of the verdicts topic that its token is of."""

from __future__ import annotations

import asyncio
import math
from types import SimpleNamespace
from typing import Any

import pytest

from moderation.api.errors import RefusedError
from moderation.api.validation import WatchQuery
from moderation.api.watches import Watch
from moderation.settings import ApiSettings
from moderation.view.lives import Lives

A, B, C = (letter * 22 for letter in "ABC")
START = {0: 5}


class View:
    """It knows the topic's life A; the brokers have another one by now."""

    def __init__(self, id: str = A, now: str = B) -> None:
        self.now = now
        self.asked = 0
        self.caught_up = asyncio.Event()
        self.caught_up.set()
        self.lives = Lives(self.ask)
        self.lives.learn({"verdicts": id} if id else {})

    @property
    def verdicts_id(self) -> str:
        return self.lives.id("verdicts")

    async def ask(self) -> dict[str, str]:
        self.asked += 1
        return {"verdicts": self.now} if self.now else {}


async def begun(view: Any, start_id: str) -> Any:
    permit: Any = SimpleNamespace(caller=SimpleNamespace(until=math.inf))

    async def write(_: object) -> None:
        raise AssertionError

    watch = Watch(ApiSettings(), view, WatchQuery(None, frozenset(), frozenset(), START, start_id), permit, write)
    await watch._begin()
    return watch._positions


@pytest.mark.parametrize(
    ("start_id", "asked", "positions"),
    [
        (A, 0, START),  # as far as the view knows
        (B, 1, START),  # of a replica that has learned of B first
        (C, 1, {}),
        ("", 1, START),  # of the topic that exists now
    ],
)
async def test_a_watch_goes_on_in_the_life_that_its_token_is_of(start_id: str, asked: int, positions: Any) -> None:
    view = View()
    assert await begun(view, start_id) == positions
    assert view.asked == asked


async def test_without_ids_a_watch_goes_on_where_its_token_says() -> None:
    view = View("", "")
    assert await begun(view, "") == START
    assert view.asked == 0


async def test_a_watch_of_a_view_that_is_built_again_is_refused() -> None:
    view = View()
    view.lives.on_change(lambda *_: view.caught_up.clear())
    with pytest.raises(RefusedError, match="built again"):
        await begun(view, B)
