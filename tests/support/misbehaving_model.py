"""A fake model that misbehaves as a post's words or its own options ask.

A post asks for a fault with a word `fault:<method>:<kind>` in its text, for instance `fault:score:nan`. The kinds are
the keys of STRIKES, and those of SCORE and ENCODE. The name of the model asks for faults of the model itself:

    misbehaving?every=10&fault=score:raise    every tenth call of score fails
    misbehaving?at=10&fault=score:raise       the tenth call fails
    misbehaving?shift=1                       rows come shifted by one once score has raised: each is the one before
    misbehaving?blind=10                      from the tenth call on score fails on what holds a post of the test
    misbehaving?load=panic                    it cannot be loaded
    misbehaving?once=FILE                     all this only in the process that creates the file

`step_ms` and the answers to everything else are those of `moderation.models.fake`.
"""

from __future__ import annotations

import math
import os
import threading
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from moderation.errors import DeviceError
from moderation.models.contract import Encoded, Windows
from moderation.models.fake import Fake, FakeEncoded
from moderation.settings import ModelSettings
from moderation.types import Content, Question, Score

SECRET = "what no log may hold"  # noqa: S105  the text of foreign exceptions raised here
OF_THE_TEST = "number"  # a word of each post of the tests, and of no probe

ScoreRows = list[list[Any]]


class PanicException(BaseException):
    """What an extension written in Rust raises when it panics."""


def hang() -> None:
    threading.Event().wait()


def raises(kind: type[BaseException], text: str = SECRET) -> Callable[[], None]:
    def strike() -> None:
        raise kind(text)

    return strike


STRIKES: dict[str, Callable[[], None]] = {
    "raise": raises(RuntimeError),
    "memory": raises(MemoryError),
    "panic": raises(PanicException),
    "cancelled": raises(CancelledError),
    "interrupt": raises(KeyboardInterrupt),
    "exit": raises(SystemExit),
    "stop": raises(StopIteration),
    "device": raises(DeviceError, "the double's device has failed"),  # a DeviceError is logged with its text
    "hang": hang,
    "abort": os.abort,
}
_NAN, _YES, _NO = math.nan, 8.0, -8.0


def spoils_row(spoil: Callable[[list[Any]], Any]) -> Callable[[ScoreRows, int], Any]:
    """The answer with one row spoiled: that of the post that asks for it."""
    return lambda rows, at: [spoil(row) if number == at else row for number, row in enumerate(rows)]


def spoils_score(**fields: Any) -> Callable[[ScoreRows, int], Any]:
    return spoils_row(lambda row: [replace(row[0], **fields), *row[1:]])


# What becomes of the rows of a batch when the post at a place in it asks for it.
SCORE: dict[str, Callable[[ScoreRows, int], Any]] = {
    "none": lambda rows, at: None,
    "number": lambda rows, at: 7,
    "one_row_less": lambda rows, at: rows[:-1],
    "one_row_more": lambda rows, at: [*rows, rows[-1]],
    "row_none": spoils_row(lambda row: None),
    "short_row": spoils_row(lambda row: row[:-1]),
    "long_row": spoils_row(lambda row: [*row, row[-1]]),
    "score_none": spoils_row(lambda row: [None, *row[1:]]),
    "score_number": spoils_row(lambda row: [0.5, *row[1:]]),
    "probability_none": spoils_score(probability=None),
    "probability_text": spoils_score(probability="0.1"),
    "nan": spoils_score(probability=_NAN),
    "all_nan": spoils_score(probability=_NAN, margin=_NAN, mass=_NAN),
    "margin_nan": spoils_score(margin=_NAN),
    "margin_infinite": spoils_score(probability=0.0, margin=-math.inf),
    "mass_nan": spoils_score(mass=_NAN),
    "above": spoils_score(probability=1.5, margin=_YES),
    "below": spoils_score(probability=-0.5, margin=_NO),
    "against": spoils_score(probability=0.001, margin=_YES),
    "mass_above": spoils_score(mass=1.5),
    "mass_below": spoils_score(mass=-0.5),
}


@dataclass(frozen=True, slots=True)
class _Odd:
    tokens: Any


# What encode returns in place of the windows.
ENCODE: dict[str, Callable[[Windows[FakeEncoded]], Any]] = {
    "none": lambda windows: None,
    "empty": lambda windows: Windows(),
    "number": lambda windows: 7,
    "list": list,
    "items_none": lambda windows: Windows(None),  # type: ignore[arg-type]
    "window_none": lambda windows: Windows([None]),
    "no_tokens": lambda windows: Windows([_Odd(0)]),
    "negative_tokens": lambda windows: Windows([_Odd(-5)]),
    "tokens_none": lambda windows: Windows([_Odd(None)]),
    "problems_none": lambda windows: Windows(windows.items, None),  # type: ignore[arg-type]
    "problem_text": lambda windows: Windows(windows.items, (SECRET,)),  # type: ignore[arg-type]
}


def asked(text: str, method: str) -> str:
    """The kind of fault that a text asks of this method; empty: none."""
    words = [word for word in text.split() if word.startswith(f"fault:{method}:")]
    return words[0].split(":")[2] if words else ""


class Misbehaving(Fake):
    """See the module's text."""

    def __init__(
        self, *, step_ms: float = 0.0, every: int = 0, at: int = 0, fault: str = "", shift: bool = False, blind: int = 0
    ) -> None:
        super().__init__(step_ms=step_ms)
        self._every, self._at, self._fault = every, at, fault.rpartition(":")[2]
        self._shift, self._blind = shift, blind
        self._calls = 0
        self._raised = False
        self._held: list[Score] | None = None  # the last row of the step before, when rows are shifted

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
        windows = super().encode(content, questions)
        kind = asked(content.text, "encode")
        if kind in STRIKES:
            STRIKES[kind]()
        encoded: Windows[FakeEncoded] = ENCODE[kind](windows) if kind else windows
        return encoded

    def look_ahead(self, items: Sequence[Encoded]) -> None:
        for item in items:
            if kind := asked(getattr(item, "text", ""), "look_ahead"):
                STRIKES[kind]()

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        self._calls += 1
        try:
            rows = self._rows(batch)
        except BaseException:
            self._raised = True
            raise
        if self._shift and self._raised:
            held, self._held = self._held, rows[-1]
            rows = [held or rows[-1], *rows[:-1]]
        answer: Sequence[Sequence[Score]] = rows
        return answer

    def _rows(self, batch: Sequence[Encoded]) -> Any:
        texts = [getattr(item, "text", "") for item in batch]
        if (self._every and self._calls % self._every == 0) or self._calls == self._at:
            STRIKES[self._fault]()
        if self._blind and self._calls >= self._blind and any(OF_THE_TEST in text.split() for text in texts):
            raise RuntimeError(SECRET)
        kinds = [asked(text, "score") for text in texts]
        for kind in kinds:
            if kind in STRIKES:
                STRIKES[kind]()
        rows: Any = super().score(batch)
        at = next((at for at, kind in enumerate(kinds) if kind), None)  # one row less and one row more look like none
        return rows if at is None else SCORE[kinds[at]](rows, at)


def load(settings: ModelSettings) -> Misbehaving:
    """The double, with the options in its name."""
    options = dict(parse_qsl(settings.name.partition("?")[2]))
    step_ms = float(options.pop("step_ms", 0))
    if once := options.pop("once", ""):
        try:
            Path(once).touch(exist_ok=False)
        except FileExistsError:
            return Misbehaving(step_ms=step_ms)
    if kind := options.pop("load", ""):
        STRIKES[kind]()
    fault = options.pop("fault", "")
    numbers = {name: int(value) for name, value in options.items()}
    return Misbehaving(step_ms=step_ms, fault=fault, shift=bool(numbers.pop("shift", 0)), **numbers)
