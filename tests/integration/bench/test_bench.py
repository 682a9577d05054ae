"""`moderation bench` runs, its ways agree, and its files hold the results. Speeds are not tested here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from moderation.bench import agreement, engine, redecide, sizes, timing, workloads
from moderation.bench.baselines import WAYS, Stock
from moderation.bench.engine import Options
from moderation.bench.sizes import Size
from moderation.bench.workloads import KINDS
from moderation.errors import ConfigError
from moderation.models.phi3.family import Window
from moderation.models.phi3.network import Phi3Config, Phi3Network
from moderation.models.phi3.preprocessing import Crops
from moderation.models.shared import compiled
from moderation.models.shared import engine as engine_of
from moderation.models.shared.engine import Engine
from moderation.models.shared.tree import Tree
from moderation.types import Score

TINY = Size(192, 256, 2, 3, "for tests")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    published = sizes.config

    def small_tower(size: Size) -> Phi3Config:
        whole = published(size)
        small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "image_size": 112}
        vision = whole.img_processor.vision_config.model_copy(update=small)
        return whole.model_copy(
            update={"img_processor": whole.img_processor.model_copy(update={"vision_config": vision})}
        )

    monkeypatch.setattr(sizes, "config", small_tower)
    monkeypatch.setitem(sizes.SIZES, "small", TINY)
    monkeypatch.setattr(timing, "SHORTEST_S", 0.0)
    monkeypatch.setitem(engine.MATMUL, "cpu", 128)
    monkeypatch.setattr(agreement, "SIZE", TINY)


@pytest.mark.usefixtures("tiny")
def test_the_engine_against_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("text", "image4", "image16", "mix")
    out, plot = tmp_path / "run.json", tmp_path / "run.svg"
    asked = Options(kinds=kinds, policies=(2,), rounds=2, threads=1, where="cpu", json=out, plot=plot)
    assert engine.main(asked) == 0
    printed = capsys.readouterr().out
    run = json.loads(out.read_text())
    assert [cell["kind"] for cell in run["cells"]] == list(kinds)
    for cell in run["cells"]:
        assert cell["padding"] == 1.0, "the engine computes no token twice, and no token without use"
        assert set(WAYS) <= cell["seconds"].keys()
        assert set(WAYS) == cell["times_faster"]["tree"].keys()
        assert all(len(rounds) == 2 for rounds in cell["seconds"].values())
        assert max([0.0, *(cell["apart"][way] for way in WAYS if way in cell["apart"])]) < 1e-4
        assert cell["kind"] in printed
    assert plot.read_text().startswith("<svg ")


@pytest.mark.usefixtures("tiny")
def test_padding_is_counted_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of passes that are padded, and of posts of which a part runs twice, as it has questions on both sides of the
    context."""
    config = sizes.config(TINY)
    network = sizes.network(config, dtype=torch.float32, device=torch.device("cpu"))
    bench = engine.Bench(Options(ways=("tree",)), network)
    text = workloads.post(KINDS["text"], 2, config, seed=0)
    assert (text.tree.tokens, bench._padding([[text]])) == (420, 1.0)
    twice = replace(text, tree=Tree(text.tree.shared, ((5,) * 10, (6,) * 50)), context=150)
    assert bench._padding([[twice]]) == (180 + 120) / 180
    monkeypatch.setattr(Phi3Network, "rounded", lambda _self, tokens: compiled.rounded(tokens))
    assert bench._padding([[text], [text, twice]]) == (512 + 1024) / (420 + 420 + 180)


@pytest.mark.usefixtures("tiny")
def test_scores_agree_more_in_higher_precision(tmp_path: Path) -> None:
    out = tmp_path / "agreement.json"
    assert agreement.main(None, 40, out, 1) == 0
    single, half, eight = json.loads(out.read_text())["precisions"]
    assert single["name"] == "float32"
    assert single["spread"] < 1e-5
    assert single["alone_log_odds"] < 1e-4
    assert single["spread"] < half["spread"] < 0.1
    assert half["from_float32"] < eight["from_float32"]


class Swayed(Engine[Crops]):
    """Its answers depend on the batch: beyond so many steps those of posts with neighbours are off by a little."""

    SURE_STEPS, OFF = 0, 1e-4

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.steps = 0

    def score(self, windows: Sequence[engine_of.Window[Crops]]) -> list[list[Score]]:
        rows = super().score(windows)
        if len(windows) == 1:
            return rows
        self.steps += 1
        off = self.OFF if self.steps > self.SURE_STEPS else 0.0
        return [[replace(score, probability=score.probability + off) for score in row] for row in rows]


class SwayedLate(Swayed):
    """By less than what is still taken for rounding, but more than in all batches before."""

    SURE_STEPS, OFF = 25, 9e-6


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(("wrong", "flips"), [(Swayed, False), (SwayedLate, True)])
def test_agreement_fails_an_engine_whose_scores_depend_on_the_batch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: type[Engine[Crops]], flips: bool
) -> None:
    monkeypatch.setattr(agreement, "Engine", wrong)
    out = tmp_path / "run.json"
    assert agreement.main(None, 40, out, 1) == 1
    single = json.loads(out.read_text())["precisions"][0]
    assert (single["flips"] > 0) == flips
    assert (single["spread"] > 1e-5) != flips


@pytest.mark.usefixtures("tiny")
def test_ways_that_disagree_make_the_command_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Options(kinds=("text",), policies=(2,), rounds=1, threads=1, where="cpu", ways=("tree", "prefix"))
    assert engine.main(asked) == 0
    right = Stock.prefix

    def wrong(self: Stock, window: Window) -> Tensor:
        logits = right(self, window).clone()
        logits[1, engine.YES] += 1e-3
        return logits

    monkeypatch.setattr(Stock, "prefix", wrong)
    assert engine.main(asked) == 1


@pytest.mark.parametrize("odd", [{"size": "huge"}, {"kinds": ("video",)}, {"ways": ("magic",)}, {"where": "tpu"}])
def test_an_unknown_option_is_named(odd: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"there is no \w+ (huge|video|magic|tpu); there is"):
        engine.main(Options(**odd))  # type: ignore[arg-type]


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="gguf"):
        agreement.main(Path("nowhere.gguf"), 2, None, 1)


def test_archived_verdicts_are_decided_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "results.json"
    policies = Path(__file__).parents[3] / "policies"
    results = redecide.run(policies, 2_000, Console(), file)
    redecide.print_table(results, Console(width=200))
    assert json.loads(file.read_text()) == results
    runs = results["runs"]
    assert [row["verdicts"] for row in runs] == [row["decided"] for row in runs] == [500, 2_000]
    assert all(0 < row["flips"] < row["verdicts"] for row in runs)
    assert all(row["peak_mb"] > 50 for row in runs)
    assert "2,000" in capsys.readouterr().out
