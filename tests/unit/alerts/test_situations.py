"""The rig of the alerts leaves no alert out, and its page is as fast as its rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from moderation.cli.top.limits import LIMITS
from tests.alerts.__main__ import Row, write
from tests.alerts.situation import SITUATIONS
from tests.alerts.top import AS_THEY_ARE, faster
from tests.support.scaled_rules import RULES, scaled

FACTOR = 20.0


def alerts(text: str) -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"]}


def test_each_alert_is_caused_in_a_situation() -> None:
    assert {alert.name for some in SITUATIONS.values() for alert in some.alerts} == set(alerts(RULES.read_text()))


@pytest.mark.parametrize("name", sorted(LIMITS))
def test_the_page_is_as_fast_as_the_rules(name: str) -> None:
    """A limit that is divided has a rule whose threshold is divided; any other has none."""
    changed = [
        alert
        for alert, expr in alerts(scaled(FACTOR)).items()
        if re.search(rf"\b{name}\b", expr) and re.search(r"\* (60|3)\b", expr)
    ]
    assert bool(changed) == (name not in AS_THEY_ARE)
    assert faster(FACTOR)[name] == LIMITS[name] / (FACTOR if changed else 1)


def test_results_keep_the_rows_of_situations_that_did_not_run(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write(file, [Row("A", "worker-killed", "so"), Row("B", "api-killed", "so")], "3", FACTOR)
    write(file, [Row("C", "api-killed", "so")], "3", FACTOR)
    rows = [(row["alert"], row["situation"]) for row in yaml.safe_load(file.read_text())["rows"]]
    assert sorted(rows) == [("A", "worker-killed"), ("C", "api-killed")]
