"""`moderation policies test` with the checkpoint that ships: the demo set is green, and a changed word turns it red."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from moderation.cli.policies import test as command
from moderation.errors import ConfigError
from moderation.observability import logs
from tests.support.logged import logging_restored
from tests.support.repository import REPO
from tests.support.until import until

DEMO = REPO / "policies" / "demo"
PICTURES = REPO / "moderation/demo/pictures"
BEER = {"post": {"text": "look at my beer"}, "label": "A1"}
WINE = {"post": {"id": "dinner", "images": [{"file": "wine-cheese.jpg"}]}, "label": "A1", "slices": {"meal": "dinner"}}
DAY = {"post": {"text": "what a nice day", "language": "en"}, "label": "allowed"}
WRONG = {"post": {"id": "<b>tea</b>", "text": "<script>alert(1)</script> tea \x1b[2J"}, "label": "violates"}


@pytest.fixture(autouse=True)
def as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard error stays the test's, and each test has answers of its own."""
    monkeypatch.setattr(logs, "capture_prints", lambda _: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with logging_restored():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy of the demo with a golden set of our own."""
    folder = tmp_path / "policies"
    folder.mkdir()
    shutil.copy(DEMO / "alcohol.yaml", folder)
    shutil.copy(PICTURES / "wine-cheese.jpg", folder)
    golden(folder, BEER, WINE, DAY, WRONG)
    gate(folder, "{wrong: 1}")
    return folder


def golden(folder: Path, *rows: object) -> Path:
    path = folder / "alcohol.golden.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def gate(folder: Path, limits: str) -> None:
    path = folder / "alcohol.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("gate:")]
    path.write_text("\n".join([*lines, f"gate: {limits}", ""]))


def reworded(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def measured(capsys: pytest.CaptureFixture[str], *arguments: Any, **options: Any) -> tuple[Any, int]:
    """The figures as JSON, and the exit code."""
    code = 0
    try:
        command.measure(*arguments, model="demo", as_json=True, **options)
    except SystemExit as ended:
        code = int(ended.code or 0)
    return json.loads(capsys.readouterr().out), code


def printed(capsys: pytest.CaptureFixture[str], *arguments: Any, **options: Any) -> tuple[str, int]:
    """What stands on the terminal, and the exit code."""
    code = 0
    try:
        command.measure(*arguments, model="demo", **options)
    except SystemExit as ended:
        code = int(ended.code or 0)
    return capsys.readouterr().out, code


def demo_copy(tmp_path: Path) -> Path:
    """The demo's folder beside its pictures, as in the repository."""
    folder = tmp_path / "checkout" / "policies" / "demo"
    shutil.copytree(DEMO, folder)
    shutil.copytree(PICTURES, tmp_path / "checkout" / "moderation" / "demo" / "pictures")
    return folder


def test_the_demo_set_is_green_and_a_changed_word_turns_it_red(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = demo_copy(tmp_path)
    report, code = measured(capsys, folder)
    assert code == 0
    assert [policy["id"] for policy in report["policies"]] == sorted(path.stem for path in DEMO.glob("*.yaml"))
    for policy in report["policies"]:
        assert policy["gate"] == [{"key": "wrong", "limit": 0, "value": 0, "kept": True}]
        assert policy["misses"] == policy["false_alarms"] == policy["unanswered"] == []
        assert policy["posts"] >= 7
    reworded(folder / "alcohol.yaml", "Does this post show or mention alcohol?", "Does this post show or sell alcohol?")
    text, code = printed(capsys, folder, policy="alcohol")
    assert code == 1
    assert re.search(r"^gate: posts wrong: \d+, at most 0: NOT KEPT$", text, re.MULTILINE)
    named = re.search(r"^missed:\n((?:  line-\d+, label A1: ALLOW at 0\.\d+, .+\n)+)", text, re.MULTILINE)
    assert named
    assert '"look at my beer"' in named[1]


def test_figures_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, code = measured(capsys, folder)
    assert code == 0
    (policy,) = report["policies"]
    assert (policy["posts"], policy["violating"], policy["wrong"]) == (4, 3, 1)
    assert [(case["id"], case["line"], case["outcome"]) for case in policy["misses"]] == [("<b>tea</b>", 4, "ALLOW")]
    review = policy["review"]
    assert (review["flagged"], review["precision"]["hits"], review["recall"]["rate"]) == (2, 2, 2 / 3)
    assert [round(end, 3) for end in review["recall"]["interval"]] == [0.094, 0.992]
    assert policy["clauses"][0]["flagged"]["review"]["hits"] == 2
    assert set(policy["slices"]) == {"language: en", "meal: dinner", "media: image", "media: text"}
    assert policy["slices"]["media: text"]["review"]["recall"]["trials"] == 2
    assert policy["auc"] is not None
    assert policy["gate"] == [{"key": "wrong", "limit": 1, "value": 1, "kept": True}]
    assert re.fullmatch(r"[0-9a-f]{64}", policy["score_digest"])
    assert report["overlap"] is None
    assert len(policy["cases"]) == 4


def test_the_terminal_never_calls_an_estimate_certified(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = printed(capsys, folder, review=0.2)
    assert "certified" not in text
    assert "if these were drawn at random" in text
    assert "they are estimates" in text
    assert "\x1b" not in text  # what a post says moves no cursor
    assert "no moderation model for people" in text


def test_against_the_gate_the_command_ends_with_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gate(folder, "{wrong: 0, recall: 0.9, precision: 1.0}")
    text, code = printed(capsys, folder)
    assert code == 1
    assert "gate: precision at remove: 100.0%, at least 100.0%: kept" in text
    assert "gate: recall at review: 66.7%, at least 90.0%: NOT KEPT" in text
    assert "gate: posts wrong: 1, at most 0: NOT KEPT" in text
    assert "<b>tea</b> (line 4), label violates: ALLOW at 0.0" in text


def test_a_gate_without_a_golden_set_is_not_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(DEMO / "drugs-talk.yaml", folder)
    text, code = printed(capsys, folder)
    assert code == 1
    assert "drugs-talk: its gate is not kept: there is no golden set: write drugs-talk.golden.jsonl" in text
    reworded(folder / "drugs-talk.yaml", "gate: {wrong: 0}", "")
    text, code = printed(capsys, folder)
    assert code == 0
    assert "drugs-talk: not tested: there is no golden set" in text


def test_other_thresholds_are_shown_as_a_curve_and_by_name(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now, _ = measured(capsys, folder)
    (beer,) = [case for case in now["policies"][0]["cases"] if case["line"] == 1]
    above = (beer["probability"] + 1) / 2
    text, _ = printed(capsys, folder, review=0.6, remove=above)
    assert f"remove at {above:g} in place of 0.9: 0 more flagged" in text
    assert re.search(r"^  - line-1, label A1: REVIEW at", text, re.MULTILINE)
    assert "review at 0.6 in place of 0.5: 0 more flagged, 0 fewer" in text
    rows = re.findall(r"^0\.\d\d .* (\d) of 4 ", text, re.MULTILINE)
    assert len(rows) == 19
    assert rows == sorted(rows, reverse=True)
    report, _ = measured(capsys, folder, remove=above)
    (policy,) = report["policies"]
    assert policy["before"]["thresholds"] == {"review": 0.5, "remove": 0.9}
    assert policy["thresholds"] == {"review": 0.5, "remove": above}
    assert policy["before"]["remove"]["flagged"] - policy["remove"]["flagged"] >= 1


class Page(HTMLParser):
    """What a browser would load, and the tags that could run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_is_one_page_that_loads_and_runs_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden(
        folder,
        BEER,
        WINE,
        DAY,
        WRONG,
        {"post": {"text": "tea", "images": [{"file": "wine-cheese.jpg"}]}, "label": "allowed"},
    )
    gate(folder, "{wrong: 0}")
    file = tmp_path / "report.html"
    file.write_text("an older one")
    _, code = printed(capsys, folder, report=file)
    assert code == 1
    page = Page(file.read_text("utf-8"))
    assert page.tags.count("svg") == 4
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert all(source.startswith(("#", "data:image/jpeg;base64,")) for source in page.sources), page.sources
    words = " ".join(" ".join(page.words).split())
    assert "<script>alert(1)</script> tea" in words
    assert "Missed: 1" in words
    assert "False alarms: 1" in words
    assert "not kept" in words
    assert "What the model reads of it Policy:" in words
    assert [path.name for path in tmp_path.iterdir() if "report" in path.name] == ["report.html"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"policy": "beer"}, "there is no policy beer; the folder has alcohol"),
        ({"golden": Path("others.jsonl")}, "its name is that of no policy: name the policy by --policy ID"),
        ({"report": Path("/no/such/folder/r.html")}, "--report /no/such/folder/r.html: name a file in a folder"),
        ({"review": 0.95}, r"alcohol: review 0\.95 is not below remove 0\.9"),
    ],
)
def test_mistakes_are_named_before_the_model_is_loaded(folder: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        command.measure(folder, model="/no/such/model", **options)


def test_a_golden_set_that_a_policy_names_must_be_there(folder: Path) -> None:
    path = folder / "alcohol.yaml"
    path.write_text(f"{path.read_text()}golden: others.jsonl\n")
    with pytest.raises(ConfigError, match=r"alcohol\.yaml.*: golden: there is no .*others\.jsonl.*or delete"):
        command.measure(folder, model="demo")


def written_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_an_interrupted_run_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    """Ctrl-C after some answers: the next run finds them, and asks for the others."""
    golden(folder, *({"post": {"text": f"day {number}"}, "label": "allowed"} for number in range(120)))
    model = "fake?step_ms=200"  # some seconds in all: it must not be done before the signal comes
    arguments = [sys.executable, "-m", "moderation", "policies", "test", str(folder), "--json", "--model", model]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
    written = tmp_path / "cache" / "moderation" / "answers.sqlite-wal"
    with subprocess.Popen(
        arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        until(lambda: run.poll() is not None or written_bytes(written) > 20_000, 60, lambda: "nothing is kept")
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=60)
    many = re.search(r"interrupted; (\d+) answers of the model are kept: run it again, and it goes on from there", said)
    assert many, said
    assert run.returncode != 0
    assert 0 < int(many[1]) < 120
    again = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=True)
    answers = json.loads(again.stdout)["answers"]
    assert answers["kept"] >= int(many[1])
    assert answers["kept"] + answers["asked"] == 120


def test_a_policy_without_limits_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.measure(folder, model="demo")
    assert "sets no limit" not in capsys.readouterr().out
    path = folder / "alcohol.yaml"
    path.write_text(path.read_text().replace("gate: {wrong: 1}\n", ""))
    command.measure(folder, model="demo")
    assert "sets no limit, as `gate: {wrong: 0}` would" in capsys.readouterr().out
