"""The rows: one kind of misbehaviour each."""

from __future__ import annotations

from dataclasses import replace

from tests.misbehaving.model import ENCODE, SCORE
from tests.misbehaving.storey import Row

PASSES = ("raise", "memory", "panic", "cancelled", "interrupt", "exit", "stop")  # that a step may raise and be well
MANY = 2_000  # good posts of a row of the full set

_ROWS = (
    Row("score-returns-what-is-no-score", faults=[f"fault:score:{kind}" for kind in SCORE], posts=80),
    Row("score-raises", faults=[f"fault:score:{kind}" for kind in PASSES]),
    Row(
        "look_ahead-raises",
        faults=[f"fault:look_ahead:{kind}" for kind in PASSES],
        dead=False,
        settings={"MODERATION_WORKER__BATCH_TOKENS": "60"},
    ),
    Row("encode-raises", faults=[f"fault:encode:{kind}" for kind in PASSES]),
    Row("encode-returns-no-windows", faults=[f"fault:encode:{kind}" for kind in ENCODE]),
)
ROWS = {row.name: row for row in _ROWS}
FULL = {name: replace(row, posts=MANY, timeout=240.0) for name, row in ROWS.items()}
