"""The cases: one kind of misbehaviour each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.misbehaving.harness import Case
from tests.support.misbehaving_model import ENCODE, SCORE

PASSES = (
    "raise",
    "memory",
    "panic",
    "cancelled",
    "interrupt",
    "exit",
    "stop",
)  # the model may still be healthy
SMALL_STEPS = {"MODERATION_WORKER__BATCH_TOKENS": "60"}
ONE_A_STEP = {"MODERATION_WORKER__BATCH_TOKENS": "1"}
DIES_ONCE: Any = {"exits": frozenset({3}), "deaths": 1}
MANY = 2_000  # good posts of a case of the full set
MORE = 10  # times as many posts with faults there

_CASES = (
    Case("score-returns-what-is-no-score", faults=[f"fault:score:{kind}" for kind in SCORE], posts=80),
    Case("score-raises", faults=[f"fault:score:{kind}" for kind in PASSES]),
    Case(
        "look_ahead-raises",
        faults=[f"fault:look_ahead:{kind}" for kind in PASSES],
        dead=False,
        settings=SMALL_STEPS,
    ),
    Case("encode-raises", faults=[f"fault:encode:{kind}" for kind in PASSES]),
    Case("encode-returns-no-windows", faults=[f"fault:encode:{kind}" for kind in ENCODE]),
    Case("every-tenth-call-raises", "misbehaving?every=10&fault=score:raise", settings=ONE_A_STEP),
    Case(
        "rows-come-shifted-after-one-exception",
        "misbehaving?step_ms=5&at=8&fault=score:raise&shift=1&once=FILE",
        posts=200,
        settings=SMALL_STEPS,
        **DIES_ONCE,
    ),
    Case(
        "everything-but-the-probe-fails",
        "misbehaving?step_ms=5&blind=8&once=FILE",
        posts=60,
        settings=SMALL_STEPS,
        **DIES_ONCE,
    ),
    Case("loading-panics", "misbehaving?load=panic&once=FILE", posts=5, **DIES_ONCE),
    Case("a-bad-post-without-followers", faults=["fault:score:raise"], posts=0),
)
CASES = {case.name: case for case in _CASES}
FULL = {
    name: replace(
        case, posts=MANY if case.posts else 0, faults=[*case.faults] * (MORE if case.posts else 1), timeout=240.0
    )
    for name, case in CASES.items()
}
