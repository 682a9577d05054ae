"""The references for operators: every log event has its sentence, and the pages are as the code is."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from moderation.observability.events import EVENTS

SCRIPT = Path(__file__).parents[3] / "deploy" / "reference.py"


@pytest.fixture(scope="module")
def reference() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("reference", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["reference"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reference"]


def test_every_event_that_is_logged_has_a_sentence_and_no_other_has(reference: ModuleType) -> None:
    logged = reference.events()
    assert len(logged) > 60
    assert set(logged) == set(EVENTS)
    assert list(EVENTS) == sorted(EVENTS), "keep the table in order"


def test_warnings_and_errors_say_what_to_do(reference: ModuleType) -> None:
    for name, event in reference.events().items():
        assert EVENTS[name].endswith(".")
        if event.levels & {"warning", "error", "critical"}:
            assert EVENTS[name].count(". ") + EVENTS[name].count("; ") + EVENTS[name].count(": "), name


@pytest.mark.parametrize(
    "name",
    ["reference/metrics.md", "reference/log-events.md", "kubernetes/components/monitoring/prometheus-rule.yaml"],
)
def test_committed_references_are_current(reference: ModuleType, name: str) -> None:
    page = (reference.DEPLOY / name).read_text(encoding="utf-8")
    assert page == reference.FILES[name](), "run make reference"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('log.info("a_done", post_id=1)', [("a_done", "info", ["post_id"])]),
        ('log.error("b_failed", exc_info=error, **more)', [("b_failed", "error", ["exception", "..."])]),
        ('structlog.get_logger().warning("c_failed")', [("c_failed", "warning", [])]),
        ('log.log(level, "d_done", x=1)', [("d_done", "any", ["x"])]),
        ('math.log(2); registry.error("x"); log("x")', []),
    ],
)
def test_calls_that_log_are_recognised(
    reference: ModuleType, source: str, expected: list[tuple[str, str, list[str]]]
) -> None:
    assert list(reference._logged(ast.parse(source))) == expected
