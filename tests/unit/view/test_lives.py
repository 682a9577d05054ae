"""Which life of a topic an id belongs to, with brokers that are up to date, behind, or away."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError

from moderation.view import lives
from moderation.view.lives import NEWER_S, Lives

A, B, C = (letter * 22 for letter in "ABC")


class Brokers:
    """They give one id, or none, at a time that a test decides."""

    def __init__(self, id: str = A) -> None:
        self.ids = {"posts": id}
        self.now = 100.0
        self.away = False
        self.hang = False
        self.asked = 0
        self.changes: list[tuple[str, str]] = []
        self.lives = Lives(self.ask, lambda: self.now)
        self.lives.on_change(lambda topic, before: self.changes.append((topic, before)))

    async def ask(self) -> dict[str, str]:
        self.asked += 1
        if self.hang:
            await asyncio.Event().wait()
        if self.away:
            raise KafkaConnectionError
        return self.ids


async def test_a_topic_that_is_made_again_is_another_one() -> None:
    brokers = Brokers()
    await brokers.lives.ask()
    assert (brokers.lives.id("posts"), brokers.changes) == (A, [])
    brokers.ids = {"posts": B}
    await brokers.lives.ask()
    assert (brokers.lives.id("posts"), brokers.changes) == (B, [("posts", A)])
    assert brokers.lives.is_past("posts", A)
    assert not brokers.lives.is_past("posts", B)


async def test_a_broker_that_is_behind_brings_no_past_topic_back() -> None:
    brokers = Brokers()
    for id in (A, B, A, B):
        brokers.ids = {"posts": id}
        await brokers.lives.ask()
    assert (brokers.lives.id("posts"), brokers.changes) == (B, [("posts", A)])


async def test_a_topic_that_is_not_there_keeps_its_id() -> None:
    brokers = Brokers()
    await brokers.lives.ask()
    brokers.ids = {}
    await brokers.lives.ask()
    assert (brokers.lives.id("posts"), brokers.changes) == (A, [])


async def test_an_id_that_brokers_do_not_know_is_of_the_past_only_after_a_while() -> None:
    brokers = Brokers()
    assert not brokers.lives.is_past("posts", C)  # nothing is known yet
    await brokers.lives.ask()
    assert not brokers.lives.is_past("posts", C)
    brokers.now += NEWER_S + 1
    assert not brokers.lives.is_past("posts", C)  # nobody has asked since
    brokers.away = True
    await brokers.lives.ask()
    assert not brokers.lives.is_past("posts", C)
    brokers.away = False
    await brokers.lives.ask()
    assert brokers.lives.is_past("posts", C)
    brokers.ids = {"posts": C}  # a broker that was behind for longer than that
    await brokers.lives.ask()
    assert not brokers.lives.is_past("posts", C)


async def test_nobody_waits_for_brokers_that_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "WAIT_S", 0.01)
    brokers = Brokers()
    await brokers.lives.refresh()
    assert brokers.lives.id("posts") == A
    brokers.hang = True
    await asyncio.wait_for(brokers.lives.refresh(), 5)
    brokers.hang, brokers.away = False, True
    await brokers.lives.ask()
    asked = brokers.asked
    await brokers.lives.refresh()
    assert brokers.asked == asked
    brokers.away = False
    await brokers.lives.ask()  # as the view does every second
    await brokers.lives.refresh()
    assert brokers.asked == asked + 2


async def test_the_first_answer_is_waited_for_and_its_absence_has_a_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "RETRY_S", 0.0)
    brokers = Brokers()
    brokers.away = True
    waiting = asyncio.create_task(brokers.lives.answered(60.0))
    while brokers.asked < 3:  # noqa: ASYNC110  counted by the task
        await asyncio.sleep(0)
    assert not waiting.done()
    brokers.away = False
    await waiting
    assert brokers.lives.id("posts") == A
    brokers.away = True
    with pytest.raises(KafkaTimeoutError) as caught:
        await brokers.lives.answered(0.0)
    assert isinstance(caught.value.__cause__, KafkaConnectionError)
