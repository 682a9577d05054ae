"""`moderation policies diff` with the checkpoint that ships: real verdicts of two versions of a policy set."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moderation.cli.options import err
from moderation.cli.policies.diff import diff
from moderation.errors import ConfigError
from moderation.evaluation.samples import labels as labelling
from moderation.evaluation.samples import samples
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
def logs_as_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Standard error stays the test's, and no answers are kept from test to test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(logs, "capture_prints", lambda _: None)
    with logging_restored():
        yield


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A set of one policy, and posts beside it."""
    folder = tmp_path / "old"
    folder.mkdir()
    text = (DEMO / "alcohol.yaml").read_text()
    (folder / "alcohol.yaml").write_text("".join(line for line in text.splitlines(True) if "gate" not in line))
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
    assert printed.index("[-alcohol-]") < printed.index("all flips")
    assert "gate of alcohol: flips 0.9324 (at most 0.3): not kept" in printed
    assert "gate of alcohol: review_load 0 (at most 1): kept" in printed
    assert "the intervals hold if these were drawn at random" in printed


def test_sets_that_decide_alike_need_no_model(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    diff(old, changed(old), model="demo")
    assert "nothing to compare" in capsys.readouterr().out


def test_drafts_that_differ_are_named(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = old / "draft.yaml"
    path.write_text((old / "alcohol.yaml").read_text().replace("id: alcohol", "id: draft") + "status: draft\n")
    new = changed(old)
    (new / "draft.yaml").write_text(path.read_text().replace("alcohol?", "wine?"))
    diff(old, new, model="demo")
    assert "not asked by either, and different: draft: name one by --policy ID" in capsys.readouterr().out
    diff(old, new, model="demo", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"changes": [], "unasked": ["draft"], "passed": True}


@pytest.mark.parametrize("options", [{"topic": True}, {"archive": Path("old")}])
def test_no_source_of_posts_is_ignored(old: Path, options: dict[str, Any]) -> None:
    """Past scores say what other thresholds do. They do not take the place of a file that is named."""
    with pytest.raises(ConfigError, match="--posts"):
        diff(old, changed(old, *LOWER), posts=old.parent / "posts.jsonl", model="demo", **options)


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


def labelled(sample: Path, labels: dict[str, labelling.Said], labeller: str = "anna") -> None:
    _, items = samples.read(sample)
    with labelling.opened(sample, labeller) as pen:
        for item in items:
            if item.post.id in labels:
                pen.write(item.number, labelling.Label(labels[item.post.id]))


def test_labels_of_flips_alone_say_what_the_change_gains(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = changed(old, *WORDS, more="gate: {lost_hits: 0.9, new_false_alarms: 0.9}\n")
    with (old.parent / "posts.jsonl").open("a") as file:
        file.write(json.dumps({"id": "again", "text": "look at my beer", "language": "de"}) + "\n")
    sample = old.parent / "flips.sample.jsonl"
    first = compared(capsys, old, new, label=sample)
    assert first["quality"][0]["flips"] == 2
    _, (item,) = samples.read(sample)  # equal contents are labelled once
    assert item.post.text == "look at my beer"
    assert not {"REMOVE", "probability", "gained"} & set(sample.read_text().split('"'))

    labelled(sample, {item.post.id: labelling.Said.VIOLATES})
    diff(old, new, model="demo", label=sample, as_json=True)
    report = json.loads(capsys.readouterr().out)
    (quality,) = report["quality"]
    assert (quality["flips"], quality["labelled"], report["labellers"]) == (2, 2, ["anna"])
    assert 0 < quality["lost_hits"][0] < 0.4 < quality["lost_hits"][1]
    assert quality["hits"][0] < 0
    assert quality["new_hits"][0] == quality["gone_false_alarms"][0] == 0
    assert [limit["key"] for limit in report["gate"]] == ["lost_hits", "new_false_alarms"]
    diff(old, new, model="demo", label=sample)
    printed = capsys.readouterr().out
    assert "labels: 2 of 2 posts that one version alone flags" in printed
    assert "gate of alcohol: lost_hits" in printed


def test_labels_belong_to_two_versions_of_one_policy(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = changed(old, *WORDS)
    sample = old.parent / "flips.sample.jsonl"
    compared(capsys, old, new, label=sample)
    other = changed(old, *WORDS, ("review: 0.50", "review: 0.40"))
    with pytest.raises(ConfigError, match="flips between other versions of alcohol: compare the versions again"):
        diff(old, other, model="demo", label=sample)
    wrong = old.parent / "flips.jsonl"
    with pytest.raises(ConfigError, match=r"ends in \.sample\.jsonl"):
        compared(capsys, old, new, label=wrong)


def test_several_policies_are_labelled_one_by_one(old: Path) -> None:
    shutil.copy(DEMO / "weapons-sale.yaml", old)
    new = changed(old, *WORDS)
    path = new / "weapons-sale.yaml"
    path.write_text(path.read_text().replace("version: 1", "version: 2"))
    path.write_text(
        path.read_text().replace("severity: critical", "severity: high").replace("severity: high", "severity: low")
    )
    with pytest.raises(ConfigError, match=r"several policies change \(alcohol, weapons-sale\): name it by --policy ID"):
        diff(old, new, model="demo", label=old.parent / "flips.sample.jsonl")


WRONG = {
    "{": r"posts\.jsonl:5: not JSON",
    '{"id": "wine", "text": "x"}': r"posts\.jsonl:1: post\.id: another row has this id, too",
    '{"images": [{"file": "gone.jpg"}]}': r"posts\.jsonl:5: .*there is no such file",
    '{"post": {"txt": "x"}}': r"posts\.jsonl:5: .*no such field",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_row_is_named_and_costs_no_other(
    old: Path, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(err, "file", io.StringIO())
    with (old.parent / "posts.jsonl").open("a") as file:
        file.write(line + "\n")
    report = compared(capsys, old, changed(old, *WORDS))
    assert (report["judged"], report["left_out"]) == (4, {"their rows cannot be read": 1})
    said = err.file.getvalue() if isinstance(err.file, io.StringIO) else ""
    assert re.search(WRONG[line], said), said


def test_a_spreadsheet_of_posts(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = old.parent / "posts.csv"
    path.write_text("text,language,slice.kind\nlook at my beer,en,short\ngood morning everyone,de,long\n")
    diff(old, changed(old, *WORDS), posts=path, model="demo", as_json=True)
    report = json.loads(capsys.readouterr().out)
    slices = {(each["key"], each["value"]): each["flips"] for each in report["effects"][0]["slices"]}
    assert (report["judged"], slices["kind", "short"], slices["kind", "long"]) == (2, 1, 0)


def test_a_run_after_another_one_asks_the_model_nothing(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = compared(capsys, old, changed(old, *WORDS))
    second = compared(capsys, old, changed(old, *WORDS))
    third = compared(capsys, old, changed(old, *WORDS), fresh=True)
    assert [[cost["asked"] for cost in report["cost"]] for report in (first, second, third)] == [[4, 4], [0, 0], [4, 4]]
    assert first["effects"] == second["effects"] == third["effects"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "name the posts to compare on: --posts FILE, or --topic"),
        ({"policy": "beer"}, "there is no policy beer; the folder has alcohol"),
        ({"report": Path("gone/report.html")}, "there is no folder gone: make it first"),
        ({"label": Path("gone/flips.sample.jsonl")}, "there is no folder gone: make it first"),
        ({"archive": Path("old"), "sample": 5}, "--archive goes with none of --posts, --topic and --sample"),
        ({"posts": Path("a.jsonl"), "topic": True}, "give --posts FILE or --topic, and not both"),
        ({"archive": Path("old")}, "scores of the past do not say what this change does: alcohol: the text differs"),
    ],
)
def test_what_cannot_be_compared_is_named(old: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        diff(old, changed(old, *WORDS), model="demo", **options)


def test_a_folder_that_is_missing_is_named(old: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        diff(old, old.parent / "gone", model="demo")
