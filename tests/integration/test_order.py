"""Which posts are judged first: against a real Kafka."""

from __future__ import annotations

from typing import Any

import pytest

from moderation import models
from moderation.models.fake import Fake
from moderation.self_check import PROBES
from tests.integration.field import Field, a_value, running

OURS = {probe.text for probe in PROBES}


class Recording(Fake):
    def __init__(self) -> None:
        super().__init__(step_ms=1)
        self.scored: list[str] = []

    def score(self, batch: Any) -> Any:
        self.scored += [item.text for item in batch if item.text not in OURS]
        return super().score(batch)


async def test_posts_that_came_within_a_millisecond_are_scored_in_the_order_of_their_partition(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first of them is scored last, and all others wait for it to be committed."""
    model = Recording()
    monkeypatch.setattr(models, "load", lambda settings: model)
    # Decoding takes its time on a thread for every second post, so that they come to the batcher in another order.
    texts = [f"{number} " + "x" * (70_000 if number % 2 == 0 else 1) for number in range(100)]
    await field.produce(*((0, b"key", a_value(number, text=text), ()) for number, text in enumerate(texts)))
    async with running(field.with_(batch_tokens=1, encode_threads=2)):
        await field.verdicts(100)
    order = [int(text.split()[0]) for text in model.scored]
    late = max(at - number for at, number in enumerate(order))
    assert late < 20, order
