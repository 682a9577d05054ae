"""A test of policies: which posts count, limits of `gate:`, other thresholds, and overlaps. The fake model answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.posts import golden
from moderation.evaluation.posts.golden import GoldenSet
from moderation.evaluation.testing.tested import Check, Result, Trial, Tried, other_thresholds
from moderation.inference.batcher import Batcher
from moderation.media.reader import Media
from moderation.models.fake import Fake
from moderation.policies import Policy, PolicyThresholds
from moderation.settings import MediaSettings, WorkerSettings
from tests.support.builders import a_policy

YES, UNSURE, MUTE = "violates:no-lakes", "unsure:no-lakes", "mute:no-lakes"


def a_set(folder: Path, policy: Policy, *rows: Mapping[str, Any]) -> tuple[Policy, GoldenSet]:
    """Rows of label and text, or with other members of a line."""
    path = folder / f"{policy.id}.golden.jsonl"
    lines = [{"label": row["label"], "post": row.get("post", {"text": row.get("text", "a quiet day")})} for row in rows]
    more = [{key: value for key, value in row.items() if key in ("split", "slices", "source")} for row in rows]
    path.write_text("".join(json.dumps(line | other) + "\n" for line, other in zip(lines, more, strict=True)))
    return policy, golden.read(path, policy, MediaSettings())


async def tried(
    *sets: tuple[Policy, GoldenSet],
    thresholds: Mapping[str, PolicyThresholds] | None = None,
    folder: Sequence[Policy] = (),
    steps: list[int] | None = None,
) -> Tried:
    policies = folder or [policy for policy, _ in sets]
    async with Media(MediaSettings()) as media, Batcher(Fake(), WorkerSettings(failed_post_s=0.02)) as scorer:
        step = steps.append if steps is not None else len_of_nothing
        return await Trial(sets, policies).tried(media, scorer, step, thresholds)


def len_of_nothing(_: int) -> None:
    return None


def lines(cases: Sequence[Any]) -> list[int]:
    return [case.labelled.line for case in cases]


async def test_misses_false_alarms_and_what_has_no_answer_are_named(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"label": "L1", "text": YES},
        {"label": "violates", "text": "a quiet day"},
        {"label": "allowed", "text": UNSURE},
        {"label": "allowed", "text": "another quiet day"},
        {"label": "L1", "text": MUTE},
    ]
    (result,) = (await tried(a_set(tmp_path, a_policy(), *rows))).results
    assert (result.figures.posts, result.figures.wrong) == (5, 3)
    assert (lines(result.misses), lines(result.false_alarms), lines(result.unanswered)) == ([2], [3], [5])


async def test_posts_of_the_split_cert_are_not_looked_at(tmp_path: Path) -> None:
    rows = [{"label": "allowed", "text": YES, "split": "cert"}, {"label": "L1", "text": YES}]
    steps: list[int] = []
    (result,) = (await tried(a_set(tmp_path, a_policy(), *rows), steps=steps)).results
    assert (lines(result.cases), result.left_out, sum(steps)) == ([2], 1, 1)
    assert result.misses == result.false_alarms == ()


@pytest.mark.parametrize("status", ["draft", "shadow", "live", "retired"])
async def test_a_policy_counts_whatever_its_status(tmp_path: Path, status: str) -> None:
    policy = a_policy(status=status, certificate="required")
    (result,) = (await tried(a_set(tmp_path, policy, {"label": "L1", "text": YES}))).results
    assert result.figures.flagged(result.cases[0].outcome) == 1
    assert result.cases[0].outcome.name == "REMOVE"


async def test_a_post_that_the_policy_does_not_apply_to_is_a_miss_where_it_violates(tmp_path: Path) -> None:
    policy = a_policy(applies_to={"languages": ["en"]})
    german = {"text": YES, "language": "de"}
    rows = [{"label": "L1", "post": german}, {"label": "allowed", "post": german}]
    (result,) = (await tried(a_set(tmp_path, policy, *rows))).results
    assert lines(result.misses) == [1]
    assert result.figures.wrong == 1


async def test_surfaces_that_other_policies_name_count_as_in_the_service(tmp_path: Path) -> None:
    comments = a_policy(applies_to={"surfaces": ["comment"]})
    profiles = a_policy("no-boats", title="Boats", applies_to={"surfaces": ["profile"]})
    row = {"label": "L1", "post": {"text": YES, "surface": "profile"}}
    (alone,) = (await tried(a_set(tmp_path, comments, row))).results
    assert alone.misses == ()
    (beside,) = (await tried(a_set(tmp_path, comments, row), folder=[comments, profiles])).results
    assert lines(beside.misses) == [1]


def gated(tmp_path: Path, gate: Mapping[str, Any], *rows: Mapping[str, Any]) -> tuple[Policy, GoldenSet]:
    return a_set(tmp_path, a_policy(gate=gate), *rows)


FOUR = [
    {"label": "L1", "text": YES},
    {"label": "L1", "text": "a quiet day"},
    {"label": "allowed", "text": f"{YES} again"},
    {"label": "allowed", "text": "a loud day"},
]


@pytest.mark.parametrize(
    ("gate", "checks"),
    [
        ({"precision": 0.5}, [Check("precision", 0.5, 0.5, True)]),
        ({"precision": 0.51}, [Check("precision", 0.51, 0.5, False)]),
        ({"recall": 0.5}, [Check("recall", 0.5, 0.5, True)]),
        ({"recall": 0.6}, [Check("recall", 0.6, 0.5, False)]),
        ({"wrong": 2}, [Check("wrong", 2, 2, True)]),
        ({"wrong": 1}, [Check("wrong", 1, 2, False)]),
        ({"precision": 0.5, "wrong": 1}, [Check("precision", 0.5, 0.5, True), Check("wrong", 1, 2, False)]),
        ({"flips": 0.0}, []),  # for another command
    ],
)
async def test_limits_of_the_gate(tmp_path: Path, gate: Mapping[str, Any], checks: list[Check]) -> None:
    (result,) = (await tried(gated(tmp_path, gate, *FOUR))).results
    assert list(result.checks) == checks
    assert result.passed is all(check.kept for check in checks)


@pytest.mark.parametrize(
    ("gate", "row"),
    [
        ({"precision": 0.0}, {"label": "L1", "text": "a quiet day"}),  # nothing is flagged
        ({"recall": 0.0}, {"label": "allowed", "text": "a quiet day"}),  # nothing violates
        ({"wrong": 9}, {"label": "L1", "text": YES, "split": "cert"}),  # nothing may be looked at
    ],
)
async def test_a_limit_of_which_nothing_can_be_said_is_not_kept(
    tmp_path: Path, gate: Mapping[str, Any], row: Mapping[str, Any]
) -> None:
    (result,) = (await tried(gated(tmp_path, gate, row))).results
    assert [(check.value, check.kept) for check in result.checks] == [(None, False)]


async def test_a_post_without_an_answer_counts_against_the_gate(tmp_path: Path) -> None:
    rows = [{"label": "L1", "text": YES}, {"label": "L1", "text": f"{MUTE} {YES}"}]
    (result,) = (await tried(gated(tmp_path, {"wrong": 0, "recall": 1.0}, *rows))).results
    assert [check.kept for check in result.checks] == [False, False]


@pytest.mark.parametrize(("texts", "passed"), [([MUTE], False), ([MUTE, YES], True), ([], True)])
async def test_where_the_model_says_nothing_at_all_nothing_is_passed(
    tmp_path: Path, texts: Sequence[str], passed: bool
) -> None:
    rows = [{"label": "L1", "text": text} for text in texts]
    kept_back = {"label": "L1", "text": "a day", "split": "cert"}
    (result,) = (await tried(a_set(tmp_path, a_policy(), *rows, kept_back))).results
    assert result.passed is passed


async def test_other_thresholds_decide_as_if_the_file_had_them(tmp_path: Path) -> None:
    rows = [*FOUR, {"label": "L1", "text": UNSURE}, {"label": "allowed", "text": MUTE}]
    now = a_policy()
    other = other_thresholds(now, 0.6, 0.9999)
    shown = await tried(a_set(tmp_path, now, *rows), thresholds={now.id: other})
    by_file = await tried(a_set(tmp_path, a_policy(thresholds=other.model_dump()), *rows))
    assert found(shown.results[0]) == found(by_file.results[0])
    assert found(shown.before[0]) == found((await tried(a_set(tmp_path, now, *rows))).results[0])
    assert found(shown.before[0]) != found(shown.results[0])
    assert shown.results[0].policy.thresholds == other


def found(result: Result) -> list[Any]:
    return [case.finding for case in result.cases]


@pytest.mark.parametrize(
    ("review", "remove", "says"),
    [
        (0.95, None, r"no-lakes: review 0\.95 is not below remove 0\.9: give both"),
        (None, 0.5, r"no-lakes: review 0\.5 is not below remove 0\.5"),
        (-0.1, None, "--review: a threshold is from 0 to 1"),
        (None, 1.5, "--remove: a threshold is from 0 to 1"),
        (float("nan"), None, "--review: a threshold is from 0 to 1"),
    ],
)
def test_thresholds_that_cannot_be_are_refused(review: float | None, remove: float | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        other_thresholds(a_policy(), review, remove)


async def test_policies_that_flag_the_same_posts_overlap(tmp_path: Path) -> None:
    boats = a_policy("no-boats", title="Boats")
    both, one = f"{YES} violates:no-boats", YES
    lakes_set = a_set(tmp_path, a_policy(), {"label": "L1", "text": both}, {"label": "L1", "text": one})
    boats_set = a_set(tmp_path, boats, {"label": "L1", "text": both}, {"label": "allowed", "text": "mute:no-boats"})
    steps: list[int] = []
    shown = await tried(lakes_set, boats_set, steps=steps)
    assert shown.overlap is not None
    assert sum(steps) == shown.overlap.posts == 3  # one post is in both sets
    assert shown.overlap.both == {
        ("no-lakes", "no-lakes"): 2,
        ("no-lakes", "no-boats"): 1,
        ("no-boats", "no-lakes"): 1,
        ("no-boats", "no-boats"): 1,
    }
    assert [result.figures.posts for result in shown.results] == [2, 2]


async def test_one_policy_overlaps_with_none(tmp_path: Path) -> None:
    assert (await tried(a_set(tmp_path, a_policy(), {"label": "L1", "text": YES}))).overlap is None
