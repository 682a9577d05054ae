"""`moderation bench engine --model` on a small checkpoint of each family. Speeds are not tested here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moderation.bench import checkpoint, timing
from moderation.bench.checkpoint import Options
from moderation.cli.app import app
from moderation.dev.checkpoint import FAMILIES, seeded
from moderation.errors import ConfigError
from moderation.models.contract import Encoded
from moderation.models.shared.classifier import VisionClassifier
from moderation.settings import ModelSettings
from moderation.types import Score
from tests.support.general import llava


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SHORTEST_S", 0.0)


def asked(folder: Path, **options: Any) -> Options:
    return Options(ModelSettings(name=str(folder), device="cpu"), **{"rounds": 2, "threads": 1, **options})


def test_a_class_of_transformers_is_measured_and_its_ways_agree(tmp_path: Path) -> None:
    folder, out = llava.make(tmp_path / "llava"), tmp_path / "run.json"
    assert checkpoint.main(asked(folder, policies=(3,), json=out)) == 0
    run = json.loads(out.read_text())
    assert run["model"]["family"] == "general"
    assert run["memory"] is None
    assert run["peak_mb"] > 0
    for cell in run["cells"]:
        assert max(cell["apart"].values()) < 1e-4
        assert cell["prompt_tokens"] > cell["tokens"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_measured_and_its_ways_agree(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = seeded(tmp_path / family, family), tmp_path / "run.json"
    assert checkpoint.main(asked(folder, policies=(1, 3), json=out)) == 0
    run = json.loads(out.read_text())
    assert run["model"]["name"] == family
    assert run["model"]["dtype"] == "float32"
    assert {"device", "python", "torch", "moderation"} == run["machine"].keys()
    assert run["command"].startswith("moderation bench engine")
    assert 0 < run["memory"]["weights"] < 1 << 28
    assert 0 < run["memory"]["step"] < 1 << 31
    assert run["peak_mb"] > run["memory"]["weights"] / 1e6
    printed, cells = capsys.readouterr().out, run["cells"]
    assert [(cell["kind"], cell["policies"]) for cell in cells] == [
        ("text", 1), ("text", 3), ("picture", 1), ("picture", 3)
    ]  # fmt: skip
    for cell in cells:
        assert cell["seconds"].keys() == cell["apart"].keys() == {"step", "tree", "prompts", "batched"}
        assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in cell["seconds"].values())
        assert max(cell["apart"].values()) < 1e-4
        assert (cell["picture_tokens"] > 0) == (cell["kind"] == "picture")
        assert cell["posts"] == 2
        assert all(cell["times_faster"][way].keys() == {"prompts", "batched"} for way in ("step", "tree"))
        shared = cell["prompt_tokens"] - cell["tokens"]  # what separate prompts repeat
        assert (shared > 0) == (cell["policies"] > 1)
        assert f"{cell['tokens']:>8}{cell['prompt_tokens']:>12}" in printed
        assert len({round(margin, 3) for margin in cell["margins"]}) == cell["policies"], "the policies differ"


def test_each_prompt_computes_its_pictures_again_and_a_tree_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = seeded(tmp_path / "phi3", "phi3")
    model = checkpoint.load(ModelSettings(name=str(folder), device="cpu"))
    computed: list[int] = []
    right = model.network.embed_images

    def embed(pictures: Sequence[Any]) -> Any:
        computed.append(len(pictures))
        return right(pictures)

    monkeypatch.setattr(model.network, "embed_images", embed)
    monkeypatch.setattr(checkpoint, "_plain", lambda _model, _window: 0.0)
    checkpoint.measure(model, "picture", 4, rounds=0)
    assert computed == [2, 1, *[1] * 4, 1], "of two posts, of one, of four prompts, of their batch"


@pytest.mark.parametrize("wrong", ["tree", "batched"])
def test_a_way_that_disagrees_makes_the_command_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    right = VisionClassifier.score

    def moved(self: VisionClassifier[Any, Any], batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        rows = right(self, batch)
        if (len(batch) > 1) == (wrong == "batched") and len(rows[0]) == (1 if wrong == "batched" else 2):
            rows = [[replace(score, margin=score.margin + 2e-4) for score in row] for row in rows]
        return rows

    monkeypatch.setattr(VisionClassifier, "score", moved)
    assert checkpoint.main(asked(seeded(tmp_path / "phi3", "phi3"), kinds=("text",), policies=(2,), rounds=1)) == 1
    assert "the ways disagree" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--size=mini", "--ways=tree", "--plot=run.svg"])
def test_options_of_random_networks_are_refused_with_a_model(option: str) -> None:
    result = CliRunner().invoke(app, ["bench", "engine", "--model", "demo", option])
    assert isinstance(result.exception, ConfigError)
    name = option.partition("=")[0]
    assert f"{name}: only for random networks" in str(result.exception)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"kinds": ("text", "video")}, "--kinds video"),
        ({"policies": (0,)}, "numbers from 1 on"),
        ({"json": Path("/nowhere/run.json")}, "/nowhere: no such folder"),
        ({"model": ModelSettings(name="fake")}, "fake: it has no network"),
        ({"model": ModelSettings(name="no/such/folder")}, "no such folder"),
    ],
)
def test_what_cannot_be_measured_is_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        checkpoint.main(Options(**{"model": ModelSettings(name="demo", device="cpu"), **wrong}))
