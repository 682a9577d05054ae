"""A set of policies: what it holds, and what its digest covers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moderation.errors import ConfigError
from moderation.policies import PolicySet, prompts
from tests.support.builders import a_policy

SHIPPED = Path(__file__).parents[3] / "policies"


def test_the_shipped_set_loads() -> None:
    ids = [policy.id for policy in PolicySet.load(SHIPPED).policies]
    assert ids == ["hate-harassment", "self-harm", "sexual-content", "spam-scams", "violence-threats", "weapons-sale"]


def test_a_set_in_which_nothing_counts_is_an_error() -> None:
    with pytest.raises(ConfigError, match="every post would be allowed"):
        PolicySet.of([a_policy(status="shadow"), a_policy("other", status="draft")])


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
        {"applies_to": {"languages": ["en"]}},
        {"applies_to": {"surfaces": ["profile"]}},
    ],
)
def test_the_digest_changes_with_everything_that_changes_an_outcome(change: dict[str, Any]) -> None:
    other = a_policy("other")
    assert PolicySet.of([a_policy(**change), other]).digest != PolicySet.of([a_policy(), other]).digest


def test_the_digest_changes_with_the_prompt_around_the_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    before = PolicySet.of([a_policy()]).digest
    monkeypatch.setattr(prompts, "WORDS", (*prompts.WORDS, "and one more"))
    assert PolicySet.of([a_policy()]).digest != before


@pytest.mark.parametrize("key", [{"attack": {"max_flip_rate": 0.1}}, {"golden": "lakes.golden.jsonl"}])
def test_the_digest_ignores_what_only_measures(key: dict[str, Any]) -> None:
    assert PolicySet.of([a_policy(**key)]).digest == PolicySet.of([a_policy()]).digest


def test_the_digest_ignores_policies_that_the_model_is_not_asked_about() -> None:
    assert PolicySet.of([a_policy(), a_policy("x", status="draft")]).digest == PolicySet.of([a_policy()]).digest
