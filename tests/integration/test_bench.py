"""`moderation bench` runs, its ways agree, and its files say what it has seen. Speeds are none of its business here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moderation.bench import agreement, engine, sizes
from moderation.bench.baselines import WAYS
from moderation.bench.engine import Options
from moderation.bench.sizes import Size
from moderation.errors import ConfigError
from moderation.models.phi3_network import Phi3Config

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
    monkeypatch.setattr(engine, "SHORTEST_S", 0.0)
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
        assert cell["padding"] == 1.0
        assert set(WAYS) <= cell["seconds"].keys()
        assert set(WAYS) == cell["times_faster"]["tree"].keys()
        assert all(len(rounds) == 2 for rounds in cell["seconds"].values())
        assert max([0.0, *(cell["apart"][way] for way in WAYS if way in cell["apart"])]) < 1e-4
        assert cell["kind"] in printed
    assert plot.read_text().startswith("<svg ")


@pytest.mark.usefixtures("tiny")
def test_agreement(tmp_path: Path) -> None:
    out = tmp_path / "agreement.json"
    assert agreement.main(None, 10, out, 1) in (0, 1)  # of so few batches the spread is no bound yet
    single, half, eight = json.loads(out.read_text())["found"]
    assert single["name"] == "float32"
    assert single["spread"] < 1e-5
    assert single["alone_log_odds"] < 1e-4
    assert single["spread"] < half["spread"] < 0.1
    assert half["from_float32"] < eight["from_float32"]


@pytest.mark.parametrize("odd", [{"size": "huge"}, {"kinds": ("video",)}, {"ways": ("magic",)}, {"where": "tpu"}])
def test_what_it_does_not_know_it_names(odd: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"there is no \w+ (huge|video|magic|tpu); there is"):
        engine.main(Options(**odd))  # type: ignore[arg-type]


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="gguf"):
        agreement.main(Path("nowhere.gguf"), 2, None, 1)
