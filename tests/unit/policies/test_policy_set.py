from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation import policies
from moderation.errors import ConfigError
from moderation.policies import PolicySet, decide, prompts
from moderation.types import Image, Outcome, Reason, Score, Severity, Status
from tests.support.builders import a_policy, a_post

SHIPPED = Path(__file__).parents[3] / "policies"
VALID = """\
id: lakes
version: 1
title: Lakes
question: Does this post mention a lake?
violates:
  - {id: L1, text: mentions a lake}
thresholds: {review: 0.5, remove: 0.9}
"""


def score(probability: float, mass: float = 1.0) -> Score:
    import math

    margin = math.log(probability / (1 - probability))
    return Score(probability, margin, mass)


def written(folder: Path, text: str, name: str = "lakes.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# The shipped set


def test_the_shipped_set_loads_and_its_schema_is_current() -> None:
    ids = [policy.id for policy in PolicySet.load(SHIPPED).policies]
    assert ids == ["hate-harassment", "self-harm", "sexual-content", "spam-scams", "violence-threats", "weapons-sale"]
    assert (SHIPPED / "policy.schema.json").read_text() == policies.json_schema()


def test_every_clause_of_a_shipped_policy_reaches_the_model() -> None:
    for policy in PolicySet.load(SHIPPED).policies:
        for clause in (*policy.violates, *policy.allows):
            assert clause.text in policy.prose
        assert policy.prose.endswith(policy.question)


# Errors name file, line and key


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (("title: Lakes", "titel: Lakes"), 3, "titel: there is no such key"),
        (("title: Lakes", "title: Lakes"), 1, None),
        (("title: Lakes\n", ""), 1, "title: Field required"),
        (("id: lakes", "id: seas"), 1, "id: must be the file's name, lakes"),
        (("version: 1", "version: one"), 2, "version: Input should be a valid integer"),
        (("version: 1", "version: 0"), 2, "version: Input should be greater than or equal to 1"),
        (("review: 0.5", "review: 0.95"), 7, "thresholds: thresholds must rise"),
        (("remove: 0.9", "remove: 1.9"), 7, "thresholds.remove: Input should be less than or equal to 1"),
        (("remove: 0.9", "remove: .nan"), 7, "thresholds.remove: Input should be a finite number"),
        (("text: mentions", "txt: mentions"), 6, "violates.0.txt: there is no such key"),
        (("title: Lakes", "title: Lakes\ntitle: Seas"), 4, "title: given twice"),
        (("title: Lakes", "title: Lakes\nstatus: alive"), 4, "status: Input should be 'draft', 'shadow', 'live'"),
        (("title: Lakes", "title: Lakes\ngolden: lakes.golden.jsonl"), 4, "golden: there is no such file"),
        (("title: Lakes", "title: Lakes\nexamples: [{text: x, label: L9}]"), 1, "no clause of this policy: L9"),
        (("title: Lakes", "title: [Lakes"), 4, "not readable as YAML"),
        (("title: Lakes", "title: !!python/name:os.system Lakes"), 1, "not readable as YAML"),
        (("id: lakes", "id: lakes\nsame: &a [*a]"), 1, "an alias (*) in it contains itself"),
    ],
)
def test_a_mistake_is_named_by_file_line_and_key(
    tmp_path: Path, change: tuple[str, str], line: int, says: str | None
) -> None:
    assert change[0] in VALID
    path = written(tmp_path, VALID.replace(*change))
    if says is None:
        PolicySet.load(tmp_path)
        return
    with pytest.raises(ConfigError) as caught:
        PolicySet.load(tmp_path)
    assert f"{path}:{line}: " in str(caught.value)
    assert says in str(caught.value)


def test_all_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    written(tmp_path, VALID.replace("version: 1", "version: 0"))
    written(tmp_path, VALID, "seas.yaml")
    written(tmp_path, VALID, "ponds.yml")
    with pytest.raises(ConfigError) as caught:
        PolicySet.load(tmp_path)
    assert [line.split(":")[0].rsplit("/")[-1] for line in str(caught.value).splitlines()] == [
        "ponds.yml",
        "lakes.yaml",
        "seas.yaml",
    ]


def test_a_folder_without_policies_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no policy"):
        PolicySet.load(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        PolicySet.load(tmp_path / "elsewhere")


def test_a_set_in_which_nothing_counts_is_an_error() -> None:
    with pytest.raises(ConfigError, match="every post would be allowed"):
        PolicySet.of([a_policy(status="shadow"), a_policy("other", status="draft")])


# The digest


def test_the_digest_is_the_same_in_another_process_and_order() -> None:
    here = PolicySet.load(SHIPPED)
    code = (
        "import pathlib, sys; from moderation.policies import PolicySet;"
        "print(PolicySet.load(pathlib.Path(sys.argv[1])).digest)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    there = subprocess.run(
        [sys.executable, "-c", code, str(SHIPPED)], env=environment, capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here.digest
    assert PolicySet.of(reversed(here.policies)).digest == here.digest


@pytest.mark.parametrize(
    "change",
    [
        {"title": "Ponds"},
        {"question": "Does this post mention a pond?"},
        {"violates": [{"id": "L1", "text": "mentions a pond"}]},
        {"allows": [{"id": "A1", "text": "seas"}]},
        {"definitions": {"lake": "water with a shore"}},
        {"examples": [{"text": "the lake", "label": "L1"}]},
        {"thresholds": {"review": 0.4, "remove": 0.9}},
        {"thresholds": {"review": 0.5, "remove": 0.91}},
        {"thresholds": {"review": 0.5, "remove": 0.9, "mass": 0.4}},
        {"on_error": "remove"},
        {"severity": "low"},
        {"version": 2},
        {"status": "shadow"},
        {"applies_to": {"media": ["image"]}},
    ],
)
def test_the_digest_changes_with_whatever_changes_an_answer(change: dict[str, Any]) -> None:
    other = a_policy("other")
    assert PolicySet.of([a_policy(**change), other]).digest != PolicySet.of([a_policy(), other]).digest


def test_the_digest_changes_with_the_prompt_around_the_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    before = PolicySet.of([a_policy()]).digest
    monkeypatch.setattr(prompts, "WORDS", (*prompts.WORDS, "and one more"))
    assert PolicySet.of([a_policy()]).digest != before


def test_the_digest_ignores_what_nobody_is_asked() -> None:
    assert PolicySet.of([a_policy(), a_policy("x", status="draft")]).digest == PolicySet.of([a_policy()]).digest


# Who is asked


@pytest.mark.parametrize(
    ("scope", "post", "asked"),
    [
        ({}, a_post(), True),
        ({"media": ["image"]}, a_post(), False),
        ({"media": ["image"]}, a_post(images=(Image(data=b"x"),)), True),
        ({"media": ["text"]}, a_post(text=" \n", images=(Image(data=b"x"),)), False),
        ({"languages": ["de"]}, a_post(language="de-AT"), True),
        ({"languages": ["de"]}, a_post(language="en"), False),
        ({"languages": ["de"]}, a_post(), True),
        ({"surfaces": ["profile"]}, a_post(surface="comment"), False),
        ({"surfaces": ["profile"]}, a_post(surface="profile"), True),
    ],
)
def test_a_policy_is_asked_about_the_posts_in_its_scope(scope: dict[str, object], post: object, asked: bool) -> None:
    some = PolicySet.of([a_policy(applies_to=scope)])
    assert bool(some.asked_of(post)) is asked  # type: ignore[arg-type]


# From scores to an outcome


@pytest.mark.parametrize(
    ("probability", "outcome"),
    [(0.1, Outcome.ALLOW), (0.5, Outcome.REVIEW), (0.89, Outcome.REVIEW), (0.9, Outcome.REMOVE)],
)
def test_thresholds_make_an_outcome(probability: float, outcome: Outcome) -> None:
    finding = a_policy().find([score(probability)])
    assert (finding.outcome, finding.reason) == (outcome, None)


@pytest.mark.parametrize(
    "silent", [score(0.01, mass=0.49), Score(0.01, float("nan"), 1.0), score(0.01, mass=float("nan"))]
)
@pytest.mark.parametrize("on_error", ["allow", "review", "remove"])
def test_a_model_that_does_not_answer_is_never_a_silent_pass(silent: Score, on_error: str) -> None:
    finding = a_policy(on_error=on_error).find([silent])
    assert (finding.outcome, finding.reason) == (Outcome[on_error.upper()], Reason.NO_ANSWER)


def test_the_strictest_window_stands() -> None:
    finding = a_policy().find([score(0.1), score(0.95), score(0.6)])
    assert (finding.outcome, finding.windows) == (Outcome.REMOVE, 3)
    assert finding.score == score(0.95)


def test_a_silent_window_keeps_a_finding_open_unless_another_says_remove() -> None:
    silent = score(0.5, mass=0.1)
    assert a_policy(on_error="allow").find([score(0.6), silent]).outcome is Outcome.REVIEW
    assert a_policy(on_error="allow").find([score(0.6), silent]).reason is Reason.NO_ANSWER
    assert a_policy(on_error="review").find([score(0.1), silent]).outcome is Outcome.REVIEW
    assert a_policy(on_error="review").find([score(0.95), silent]).reason is None


def test_the_gravest_of_the_strictest_decides() -> None:
    findings = [
        a_policy("a", severity="low").find([score(0.95)]),
        a_policy("b", severity="high").find([score(0.92)]),
        a_policy("c", severity="critical").find([score(0.6)]),
        a_policy("d", severity="critical", status="shadow").find([score(0.99)]),
    ]
    decision = decide(findings)
    assert (decision.outcome, decision.deciding_policy, decision.severity) == (Outcome.REMOVE, "b", Severity.HIGH)


def test_status_says_how_much_was_answered() -> None:
    said, silent = a_policy("a").find([score(0.1)]), a_policy("b", on_error="allow").find([score(0.1, mass=0.0)])
    assert decide([said]).status is Status.FINAL
    assert decide([said, silent]).status is Status.DEGRADED
    assert decide([silent]).status is Status.UNDETERMINED
    assert decide([]).status is Status.FINAL


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6))
def test_adding_a_policy_never_makes_a_verdict_milder(probabilities: list[float]) -> None:
    findings = [a_policy(f"p{i}").find([score(p)]) for i, p in enumerate(probabilities)]
    assert decide(findings).outcome >= decide(findings[:-1]).outcome


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    schema = json.loads(policies.json_schema())
    assert schema["additionalProperties"] is False
    assert {"id", "version", "title", "question", "violates", "thresholds"} <= set(schema["required"])
