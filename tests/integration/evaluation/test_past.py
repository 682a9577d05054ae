"""`moderation policies diff --topic`: two versions on the posts of real topics, as a worker has judged them."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moderation.cli.policies.diff import diff
from moderation.errors import ConfigError
from moderation.evaluation.traffic.archive import Archive
from moderation.evaluation.traffic.archiving import Run
from moderation.observability import logs
from tests.support.harness import Harness, a_value, running
from tests.support.logged import logging_restored


@pytest.fixture(autouse=True)
def logs_as_before(kafka: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Standard error stays the test's, and no answers are kept from test to test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(logs, "capture_prints", lambda _: None)
    with logging_restored():
        yield


def changed(harness: Harness, folder: Path, *words: tuple[str, str]) -> Path:
    new = folder / "new"
    folder.mkdir(exist_ok=True)
    shutil.copytree(harness.settings.policies, new)
    path = new / "spam.yaml"
    text = path.read_text()
    for before, after in words:
        assert before in text
        text = text.replace(before, after)
    path.write_text(text)
    return new


async def judged_by_a_worker(harness: Harness, texts: list[str]) -> None:
    async with running(harness):
        for number, text in enumerate(texts):
            language = "en" if number % 2 else "de"
            value = a_value(number, text=f"{text} {number}", language=language)
            await harness.produce((number % 3, f"post-{number}".encode(), value, ()))
        await harness.verdicts(len(texts))


async def compared(
    harness: Harness, new: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **options: Any
) -> Any:
    for name, value in harness.environment.items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    await asyncio.to_thread(diff, harness.settings.policies, new, as_json=True, **options)
    return json.loads(capsys.readouterr().out)


def seen(effect: Any) -> dict[str, int]:
    return {f"{cell['before']} {cell['after']}": cell["judged"] for cell in effect["cells"] if cell["judged"]}


TEXTS = [*["violates:spam"] * 6, *["unsure:spam"] * 4, *["hello"] * 20]


async def test_other_words_are_judged_on_posts_whose_old_scores_are_known(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await judged_by_a_worker(harness, TEXTS)
    # The fake goes by the id of a policy: no score moves, and the thresholds do.
    new = changed(harness, tmp_path, ("version: 1", "version: 2"), ("question: ", "question: So, "), ("0.5", "0.6"))
    whole = await compared(harness, new, monkeypatch, capsys, topic=True)
    assert (whole["judged"], whole["population"], whole["left_out"]) == (30, 30, {})
    assert [cost["asked"] for cost in whole["cost"]] == [0, 30]
    assert seen(whole["effects"][0]) == {"REVIEW ALLOW": 4}
    assert whole["effects"][0]["flips"] == {"low": 4 / 30, "estimate": 4 / 30, "high": 4 / 30}

    drawn = await compared(harness, new, monkeypatch, capsys, sample=15)
    again = await compared(harness, new, monkeypatch, capsys, sample=15)
    assert (drawn["judged"], drawn["population"]) == (15, 30)
    assert {stratum["name"] for stratum in drawn["strata"]} == {
        "far above remove", "from review to remove", "far below review"
    }  # fmt: skip
    flips = drawn["effects"][0]["flips"]
    assert flips["low"] <= 4 / 30 <= flips["high"]
    assert drawn["effects"] == again["effects"]


async def test_other_thresholds_ask_no_model(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await judged_by_a_worker(harness, TEXTS)
    new = changed(harness, tmp_path, ("version: 1", "version: 2"), ("0.5", "0.6"))
    absent = harness.with_(model="no-such-folder/model")
    report = await compared(absent, new, monkeypatch, capsys, topic=True)
    assert (report["judged"], report["population"], report["cost"], report["models"]) == (30, 30, [], [])
    assert seen(report["effects"][0]) == seen(report["effects"][1]) == {"REVIEW ALLOW": 4}
    assert report["effects"][0]["flips"]["high"] == 4 / 30
    folder = tmp_path / "archive"
    with Archive.opened(folder) as archive:
        await Run(harness.settings.kafka, archive, asyncio.Event()).go(lambda _: lambda _: None)
    archived = await compared(absent, new, monkeypatch, capsys, archive=folder)
    assert archived["effects"][0]["cells"] == report["effects"][0]["cells"]
    other = changed(harness, tmp_path / "other", ("remove: 0.9", "remove: 0.9, mass: 0.3"))
    with pytest.raises(ConfigError, match=r"what this change does: spam: thresholds\.mass differs"):
        await compared(absent, other, monkeypatch, capsys, archive=folder)
    others = changed(harness, tmp_path / "others", ("question: ", "question: So, "))
    lower = changed(harness, tmp_path / "lower", ("question: ", "question: So, "), ("0.5", "0.6"))
    with pytest.raises(ConfigError, match="no verdict of the period can be decided again"):
        await asyncio.to_thread(diff, others, lower, archive=folder)
    await asyncio.to_thread(diff, harness.settings.policies, new, topic=True, report=tmp_path / "report.html")
    assert "decided from the scores of past verdicts; no model was asked" in capsys.readouterr().out
    assert "REVIEW" in (tmp_path / "report.html").read_text()


async def test_each_post_counts_once_by_its_newest_verdict(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(harness):
        for number, text in enumerate(["unsure:spam", "unsure:spam", "hello"]):
            await harness.produce((0, f"post-{number}".encode(), a_value(number, text=text), ()))
        await harness.produce((0, b"post-0", a_value(0, text="hello"), ()), (0, b"post-1", None, ()))
        await harness.read(harness.topics[1], 5)
    new = changed(harness, tmp_path, ("version: 1", "version: 2"), ("0.5", "0.6"))
    report = await compared(harness, new, monkeypatch, capsys, topic=True)
    assert (report["judged"], seen(report["effects"][0])) == (2, {})
    assert report["left_out"] == {"erased": 1}


async def test_a_period_without_verdicts_is_named(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await judged_by_a_worker(harness, ["hello"])
    new = changed(harness, tmp_path, ("question: ", "question: So, "))
    with pytest.raises(ConfigError, match="has no verdicts of the period"):
        await compared(harness, new, monkeypatch, capsys, topic=True, since="9d", until="8d")
    lower = changed(harness, tmp_path / "lower", ("0.5", "0.6"))
    with pytest.raises(ConfigError, match=r"has no verdicts of the period .* give a period that meets these"):
        await compared(harness, lower, monkeypatch, capsys, topic=True, since="9d", until="8d")
    with pytest.raises(ConfigError, match="the period ends before it begins"):
        await compared(harness, new, monkeypatch, capsys, topic=True, since="1d", until="2d")
