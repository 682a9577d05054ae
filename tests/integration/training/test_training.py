"""The small checkpoint can be trained again, on real pictures: a run of a few steps, stopped and resumed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from moderation import models
from moderation.models import SHIPPED
from moderation.settings import ModelSettings
from moderation.training import lessons, pictographs, train
from moderation.training.train import Plan

PICTURES = 64
SMALL = {"GROUND_BATCH": 8, "BATCH": 6, "MORE_PICTURES": (2, 4), "CHECKED_POSTS": 6, "EARLY": 1}

pytestmark = pytest.mark.skipif(
    not pictographs.FONT.exists(), reason="pictures are drawn with fonts-noto-color-emoji: training is NOT checked"
)


class Stopped(Exception):
    """In the place of a signal."""


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Training does without them, for its speed; other tests of this process must not."""
    yield
    torch.set_flush_denormal(False)


def a_plan(folder: Path, out: str) -> Plan:
    shutil.copytree(SHIPPED["demo"], folder / out, ignore=shutil.ignore_patterns("*.safetensors"))
    return Plan(folder / out, folder / out, seed=1, pictures=PICTURES, grounding=1, answers=2, every=1, workers=1)


def weights(plan: Plan) -> dict[str, Any]:
    saved = torch.load(plan.work / "state-1.pt", weights_only=True)
    assert saved["step"] == plan.steps
    return dict(saved["student"])


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {training: lessons.shelf(tmp_path, seed=1, count=PICTURES, training=training) for training in (True, False)}
    monkeypatch.setattr(Plan, "shelf", lambda self, *, training: drawn[training])
    for name, value in SMALL.items():
        monkeypatch.setattr(train, name, value)
    whole, parts = a_plan(tmp_path, "whole"), a_plan(tmp_path, "parts")
    checks: list[int] = []
    check = train._check

    def stop_at_the_second(*arguments: Any, **options: Any) -> None:
        checks.append(1)
        if len(checks) == 2:
            raise Stopped
        check(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train, "_check", stop_at_the_second)
        with pytest.raises(Stopped):
            train.run(0, parts)
    train.run(0, parts)
    train.run(0, whole)
    torch.testing.assert_close(weights(parts), weights(whole))
    assert models.load(ModelSettings(name=str(whole.out))).info.digest  # what it wrote loads as any checkpoint does
