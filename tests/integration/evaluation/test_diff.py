"""`moderation policies diff` with the checkpoint that ships: real verdicts of two versions of a policy set."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moderation.cli.policies.diff import diff
from moderation.errors import ConfigError
from moderation.observability import logs
from tests.support.logged import logging_restored
from tests.support.repository import REPO

DEMO = REPO / "policies" / "demo"
POSTS: list[dict[str, Any]] = [
    {"id": "wine", "text": "we drank wine all night", "language": "en"},
    {"id": "beer", "text": "look at my beer", "language": "en"},
    {"id": "lake", "text": "good morning everyone", "language": "de"},
    {"post": {"id": "picture", "images": [{"file": "wine.jpg"}]}, "label": "A1", "slices": {"kind": "photo"}},
]


@pytest.fixture(autouse=True)
def logs_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard error stays the test's."""
    monkeypatch.setattr(logs, "capture_prints", lambda _: None)
    with logging_restored():
        yield


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A set of one policy, and posts beside it."""
    folder = tmp_path / "old"
    folder.mkdir()
    shutil.copy(DEMO / "alcohol.yaml", folder)
    shutil.copy(REPO / "moderation/demo/pictures/wine-cheese.jpg", tmp_path / "wine.jpg")
    (tmp_path / "posts.jsonl").write_text("".join(json.dumps(post) + "\n" for post in POSTS))
    return folder


def changed(old: Path, *words: tuple[str, str], more: str = "") -> Path:
    new = old.parent / "new"
    shutil.copytree(old, new, dirs_exist_ok=True)
    path = new / "alcohol.yaml"
    text = path.read_text()
    for before, after in words:
        assert before in text
        text = text.replace(before, after)
    path.write_text(text + more)
    return new


WORDS = (("alcohol?", "wine?"), ("mentions alcohol", "mentions wine"), ("version: 1", "version: 2"))
LOWER = (("review: 0.50", "review: 0.01"), ("version: 1", "version: 2"))


def compared(capsys: pytest.CaptureFixture[str], old: Path, new: Path, **options: Any) -> Any:
    """The figures as JSON. Raises SystemExit where the command ends with another code than 0."""
    diff(old, new, posts=old.parent / "posts.jsonl", model="demo", as_json=True, **options)
    return json.loads(capsys.readouterr().out)


def seen(effect: Any) -> dict[str, int]:
    return {f"{cell['before']} {cell['after']}": cell["judged"] for cell in effect["cells"] if cell["judged"]}


def test_a_changed_word_flips_the_posts_that_it_is_about(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = compared(capsys, old, changed(old, *WORDS))
    (change,) = report["changes"]
    assert (change["policy"], change["versions"], change["keys"]) == ("alcohol", [1, 2], [])
    assert {piece["text"] for piece in change["words"] if piece["part"] == "new"} == {"wine"}
    whole, alcohol = report["effects"]
    assert (whole["policy"], alcohol["policy"]) == (None, "alcohol")
    assert {flip["post"] for flip in alcohol["nearest"]} == {"beer", "wine"}
    assert seen(whole) == {"REMOVE ALLOW": 1, "REVIEW REMOVE": 1}
    assert whole["flips"]["estimate"] == 0.5
    assert whole["flips"]["low"] < 0.5 < whole["flips"]["high"]
    assert (report["judged"], report["population"], report["unjudged"]) == (4, None, 0)
    assert [cost["asked"] for cost in report["cost"]] == [4, 4]
    assert all(cost["model_s"] > 0 for cost in report["cost"])
    slices = {(each["key"], each["value"]): (each["judged"], each["flips"]) for each in alcohol["slices"]}
    assert slices["language", "en"] == (2, 2)
    assert slices["pictures", "yes"] == slices["kind", "photo"] == (1, 0)
    assert report["passed"]


def test_other_thresholds_ask_the_model_once(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = compared(capsys, old, changed(old, *LOWER))
    assert [cost["asked"] for cost in report["cost"]] == [4, 0]
    assert report["changes"][0]["keys"] == [{"key": "thresholds.review", "old": "0.5", "new": "0.01"}]


def test_the_gate_decides_the_exit_code(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = changed(old, *WORDS, more="gate: {flips: 0.3, review_load: 1.0}\n")
    with pytest.raises(SystemExit) as ended:
        diff(old, new, posts=old.parent / "posts.jsonl", model="demo")
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "mentions [-alcohol-]{+wine+}" in printed
    assert printed.index("[-alcohol-]") < printed.index("Outcome of posts")
    assert "gate of alcohol: flips 0.9324 (at most 0.3): not kept" in printed
    assert "gate of alcohol: review_load 0 (at most 1): kept" in printed
    assert "the intervals hold if these were drawn at random" in printed


def test_sets_that_decide_alike_need_no_model(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diff(old, changed(old), model="demo")
    assert "nothing to compare" in capsys.readouterr().out


def test_the_report_escapes_what_posts_say(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (old.parent / "posts.jsonl").open("a") as file:
        file.write(json.dumps({"id": "html", "text": "<script>beer</script> look at my beer"}) + "\n")
    page = old.parent / "report.html"
    compared(capsys, old, changed(old, *WORDS), report=page)
    text = page.read_text()
    assert "<del>alcohol</del>" in text
    assert "<ins>wine</ins>" in text
    assert "&lt;script&gt;beer" in text
    assert "<script>" not in text
    assert "<svg" in text


def test_a_sample_of_a_file_speaks_for_the_file(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = compared(capsys, old, changed(old, *WORDS), sample=2, seed=3)
    again = compared(capsys, old, changed(old, *WORDS), sample=2, seed=3)
    assert (report["judged"], report["population"]) == (2, 4)
    assert report["effects"] == again["effects"]
    assert sum(stratum["size"] for stratum in report["strata"]) == 4


def test_a_draft_is_compared_alone(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = old / "alcohol.yaml"
    path.write_text(f"{path.read_text()}status: draft\n")
    report = compared(capsys, old, changed(old, *WORDS), policy="alcohol")
    assert seen(report["effects"][1]) == {"REMOVE ALLOW": 1, "REVIEW REMOVE": 1}


def test_a_certificate_that_is_required_and_missing_is_part_of_the_change(
    old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = changed(old, *LOWER, more="certificate: required\n")
    held = compared(capsys, old, new)
    assert seen(held["effects"][0]).get("REMOVE REVIEW") == 2
    as_if = compared(capsys, old, new, certified=True)
    assert "REMOVE REVIEW" not in seen(as_if["effects"][0])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", r"posts\.jsonl:5: not JSON"),
        ('{"id": "wine", "text": "x"}', r"posts\.jsonl:5: .*id"),
        ('{"images": [{"file": "gone.jpg"}]}', r"posts\.jsonl:5: .*file"),
        ('{"txt": "x"}', r"posts\.jsonl:5: .*no such field"),
    ],
)
def test_a_wrong_line_is_named(old: Path, line: str, says: str) -> None:
    with (old.parent / "posts.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ConfigError, match=says):
        diff(old, changed(old, *WORDS), posts=old.parent / "posts.jsonl", model="demo")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "name the posts to compare on: --posts FILE, or --topic"),
        ({"policy": "beer"}, "there is no policy beer; the folder has alcohol"),
    ],
)
def test_what_cannot_be_compared_is_named(old: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        diff(old, changed(old, *WORDS), model="demo", **options)


def test_a_folder_that_is_missing_is_named(old: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        diff(old, old.parent / "gone", model="demo")
