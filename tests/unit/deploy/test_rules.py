"""Dashboard and alerts use metrics that exist, and each alert says what to do."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import Counter, Histogram, MetricWrapperBase

from moderation.api.grpc.methods import Methods
from moderation.media import decoder
from moderation.models.remote.failures import Cause
from moderation.observability.fast_metrics import FastCounter, FastHistogram
from moderation.observability.phases import Phase
from moderation.types import Origin, Outcome, Reason, Status
from moderation.view import stores  # noqa: F401  what they declare is in the registry
from tests.support import runbook
from tests.support.scaled_rules import scaled

DEPLOY = Path(__file__).parents[3] / "deploy"
OBSERVE = DEPLOY / "observe"
TESTS = sorted((OBSERVE / "rules.test").glob("*.yaml"))
PAGES = ("RUNBOOK.md", "model-servers.md")
INSTALLATION = {"namespace", "installation"}  # labels of the scrape: which installation a process belongs to
TARGET = {"instance", "job"} | INSTALLATION  # labels that Prometheus adds
# Values that the code writes; of other labels any will do.
VALUES = {
    "phase": {*Phase},
    "origin": {origin.name.lower() for origin in Origin},
    "outcome": {outcome.name.lower() for outcome in Outcome},
    "status": {status.name.lower() for status in Status},
    "reason": {str(reason) for reason in Reason},
    "cause": {"out_of_memory", "error", *Cause, *decoder.Cause},
    "role": {"worker", "api"},
    "mode": {"live", "shadow"},
    "method": {name for name in dir(Methods) if name[0].isupper()},
}


def samples() -> dict[str, set[str]]:
    """Every sample that /metrics may hold, with its labels."""
    labels_of: dict[str, set[str]] = {}
    for metric in REGISTRY._collector_to_names:
        if not isinstance(metric, FastCounter | FastHistogram | MetricWrapperBase):
            continue
        name = metric.name if isinstance(metric, FastCounter | FastHistogram) else metric._name
        labels = set(metric.labels if isinstance(metric, FastCounter | FastHistogram) else metric._labelnames)
        if isinstance(metric, FastHistogram | Histogram):
            labels_of |= {f"{name}_count": labels, f"{name}_sum": labels, f"{name}_bucket": labels | {"le"}}
        else:
            labels_of[f"{name}_total" if isinstance(metric, FastCounter | Counter) else name] = labels
    for family in REGISTRY.collect():  # of the process, from prometheus_client
        for sample in family.samples:
            labels_of.setdefault(sample.name, set(sample.labels))
    return labels_of | {"up": set()}  # of Prometheus itself, for each target


SAMPLES = samples()


def selectors(node: Any) -> Iterator[promql_parser.VectorSelector]:
    """All that a query reads."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, str):
            yield from selectors(child)
    for child in getattr(node, "args", ()):
        yield from selectors(child)


def groupings(node: Any) -> Iterator[tuple[list[str], Any]]:
    """The labels of each aggregation, and what it aggregates."""
    if isinstance(node, promql_parser.AggregateExpr):
        modifier = node.modifier
        yield list(modifier.labels) if modifier else [], node.expr
    for name in ("expr", "lhs", "rhs", "param"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, str):
            yield from groupings(child)
    for child in getattr(node, "args", ()):
        yield from groupings(child)


def problems(query: str) -> list[str]:
    """The metrics, labels and values in a query that do not exist."""
    tree = promql_parser.parse(query.replace("$__rate_interval", "5m"))
    mistakes = []
    read = list(selectors(tree))
    if not read:
        return ["it reads nothing"]
    for selector in read:
        name = selector.name or ""
        if name not in SAMPLES:
            mistakes.append(f"there is no metric {name}")
            continue
        for matcher in selector.matchers.matchers:
            label, value = matcher.name, matcher.value
            if label not in SAMPLES[name] | TARGET:
                mistakes.append(f"{name} has no label {label}")
            elif label in VALUES and (unknown := set(value.split("|")) - VALUES[label]):
                mistakes.append(f"{label} is never {', '.join(unknown)}")
            elif label == "le" and value not in bounds(name):
                mistakes.append(f"{name} has no bucket {value}")
    for labels, inner in groupings(tree):
        there = set().union(*(SAMPLES.get(selector.name or "", set()) for selector in selectors(inner))) | TARGET
        mistakes += [f"it groups by {label}, which is not there" for label in labels if label not in there]
    return mistakes


def bounds(bucket: str) -> set[str]:
    (histogram,) = [
        metric
        for metric in REGISTRY._collector_to_names
        if isinstance(metric, FastHistogram) and f"{metric.name}_bucket" == bucket
    ]
    return set(histogram._written)


def queries() -> Iterator[tuple[str, str]]:
    for panel in json.loads((OBSERVE / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']}/{target['refId']}", target["expr"]
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for name in PAGES:
        for words in runbook.queries(page(name)):
            yield f"{name}: {words[:60]}", words


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((OBSERVE / "rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def page(name: str) -> str:
    return (DEPLOY / name).read_text()


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dashboard", OBSERVE / "dashboard.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("where", "query"), [pytest.param(where, query, id=where) for where, query in queries()])
def test_a_query_uses_metrics_and_labels_that_exist(where: str, query: str) -> None:
    assert problems(query) == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("sum(moderation_verdict_total)", "there is no metric moderation_verdict_total"),
        ("rate(moderation_verdicts[5m])", "there is no metric moderation_verdicts"),
        ("moderation_step_seconds", "there is no metric moderation_step_seconds"),
        ('moderation_verdicts_total{outcom="allow"}', "moderation_verdicts_total has no label outcom"),
        ('moderation_verdicts_total{outcome="ALLOW"}', "outcome is never ALLOW"),
        ("sum by (policy) (rate(moderation_verdicts_total[5m]))", "it groups by policy, which is not there"),
        ('moderation_phase_seconds_bucket{le="60"}', "moderation_phase_seconds_bucket has no bucket 60"),
        ("vector(1)", "it reads nothing"),
    ],
)
def test_a_wrong_query_is_detected(query: str, problem: str) -> None:
    assert problems(query) == [problem]


def test_every_metric_is_on_the_dashboard_or_in_an_alert() -> None:
    """A metric that is shown nowhere need not be counted."""
    shown = {
        selector.name
        for _, query in queries()
        for selector in selectors(promql_parser.parse(query.replace("$__rate_interval", "5m")))
    }
    families = {re.sub(r"_(count|sum|bucket)$", "", name) for name in SAMPLES if name.startswith("moderation_")}
    seen = {re.sub(r"_(count|sum|bucket)$", "", name or "") for name in shown}
    assert families <= seen


def test_the_dashboard_is_as_its_script_writes_it() -> None:
    assert (OBSERVE / "dashboard.json").read_text() == generator().text(), "run make reference"
    made = json.loads((OBSERVE / "dashboard.json").read_text())
    assert made["uid"] == "moderation"
    assert [variable["name"] for variable in made["templating"]["list"]] == ["datasource", "namespace", "installation"]
    ids = [panel["id"] for panel in made["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in made["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies on another panel"
        assert place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            for selector in selectors(promql_parser.parse(target["expr"].replace("$__rate_interval", "5m"))):
                assert {matcher.name for matcher in selector.matchers.matchers} >= INSTALLATION, target["expr"]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    assert rule["annotations"]["runbook_url"] == f"deploy/RUNBOOK.md#{rule['alert'].lower()}"
    entry = re.search(rf"^## {rule['alert']}\n(.*?)(?=^#|\Z)", page("RUNBOOK.md"), re.MULTILINE | re.DOTALL)
    assert entry, f"the runbook has no entry {rule['alert']}"
    for part in ("**Means**", "**First look**", "**Do**"):
        assert part in entry[1]


def test_the_runbook_has_no_entry_without_an_alert() -> None:
    assert re.findall(r"^## (\w+)$", page("RUNBOOK.md"), re.MULTILINE) == [rule["alert"] for rule in alerts()]


@pytest.mark.parametrize("name", PAGES)
def test_settings_that_a_page_names_exist(name: str) -> None:
    from moderation.settings import fields

    known = {variable for variable, _, _ in fields()}
    assert set(re.findall(r"MODERATION_[A-Z]+__[A-Z_]+", page(name))) <= known


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_is_of_one_installation(rule: dict[str, Any]) -> None:
    """A sum, a match or a count over several would hide the one that is down, or blame one for another."""
    for labels, inner in groupings(promql_parser.parse(rule["expr"])):
        # A count of groups keeps what they are grouped by.
        assert set(labels) >= INSTALLATION, f"{labels} of {inner}"
    for labels in re.findall(r"\bon \(([^)]*)\)", rule["expr"]):
        assert set(labels.split(", ")) >= INSTALLATION
    assert "ignoring" not in rule["expr"]


OTHER = "elsewhere"


def beside_another(test: dict[str, Any]) -> dict[str, Any]:
    """The same test while the same happens in another installation: each has its alerts, and no others."""
    series = test["input_series"]
    copied = [
        each | {"series": re.sub(r'installation="', f'installation="{OTHER}-', each["series"])}
        for each in series
        if 'installation="' in each["series"]
    ]
    cases = []
    for case in test["alert_rule_test"]:
        expected = case["exp_alerts"]
        moved = []
        for alert in expected:
            if (name := alert["exp_labels"].get("installation")) is None:
                continue
            annotations = alert["exp_annotations"]
            moved.append(
                {
                    "exp_labels": alert["exp_labels"] | {"installation": f"{OTHER}-{name}"},
                    "exp_annotations": annotations
                    | {"description": re.sub(rf"\b{name}\b", f"{OTHER}-{name}", annotations["description"])},
                }
            )
        cases.append(case | {"exp_alerts": expected + moved})
    return test | {"input_series": series + copied, "alert_rule_test": cases}


def promtool(*arguments: str, folder: Path = OBSERVE) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool (Debian: apt install prometheus): the alerts are NOT tested")
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_valid() -> None:
    promtool("check", "rules", "rules.yaml")


def test_the_rules_are_valid_in_a_faster_world(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(scaled(60))
    promtool("check", "rules", "rules.yaml", folder=tmp_path)
    text = """[1h] offset 30m) > 10 * 60
    max_over_time(up[30m:1m])
    for: 2m
    time() - 7 * 24 * 60 * 60"""
    assert scaled(60, text).split("\n") == [
        "[60000ms] offset 30000ms) > 10 * 1",
        "    max_over_time(up[30000ms:1000ms])",
        "    for: 2000ms",
        "    time() - 7 * 24 * 60 * 1",
    ]


@pytest.mark.parametrize("name", [path.name for path in TESTS])
def test_the_alerts_fire_as_their_tests_say_also_beside_another_installation(name: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text((OBSERVE / "rules.yaml").read_text())
    (tmp_path / "tests").mkdir()
    written = yaml.safe_load((OBSERVE / "rules.test" / name).read_text())
    doubled = written | {"tests": [beside_another(test) for test in written["tests"]]}
    (tmp_path / "tests" / name).write_text(yaml.safe_dump(doubled, width=1000))
    promtool("test", "rules", name, folder=tmp_path / "tests")


def test_each_alert_is_tested_for_when_it_fires_and_when_it_does_not() -> None:
    cases = [
        case for path in TESTS for test in yaml.safe_load(path.read_text())["tests"] for case in test["alert_rule_test"]
    ]
    every = {rule["alert"] for rule in alerts()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == every
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == every


def test_prometheus_scrapes_both_roles() -> None:
    config = yaml.safe_load((OBSERVE / "prometheus.yml").read_text())
    parts = [part for job in config["scrape_configs"] for part in job["static_configs"]]
    assert [target for part in parts for target in part["targets"]] == ["worker:9464", "api:9464"]
    assert all(part["labels"] == {"installation": "compose"} for part in parts)
    assert config["rule_files"] == ["rules.yaml"]
