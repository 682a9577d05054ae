"""Numbers out of bounds, and a decoder's config as transformers 4 and 5 write it."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from moderation.models.h2ovl import config as h2ovl
from moderation.models.phi3 import network as phi3
from moderation.models.shared.llama import LlamaConfig
from moderation.models.shared.phi import PhiConfig
from moderation.models.tinygptv import network as tinygptv
from moderation.models.tinygptv.network import QFormerConfig
from moderation.models.tinyllava import config as tinyllava
from moderation.models.tinyllava import preprocessing


def saved(kind: str, folder: Path, **keys: Any) -> dict[str, Any]:
    """The config.json that the installed transformers writes."""
    transformers: Any = importlib.import_module("transformers")
    getattr(transformers, kind)(**keys).save_pretrained(folder)
    read: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return read


def test_rotary_keys_that_transformers_5_writes_are_read(tmp_path: Path) -> None:
    theirs = saved("PhiConfig", tmp_path / "phi", hidden_size=2560, rope_theta=50_000.0, partial_rotary_factor=0.4)
    assert "rope_parameters" in theirs
    assert "partial_rotary_factor" not in theirs
    phi = PhiConfig.model_validate(theirs)
    assert (phi.rope_theta, phi.partial_rotary_factor) == (50_000.0, 0.4)
    assert phi == PhiConfig(hidden_size=2560, rope_theta=50_000.0, partial_rotary_factor=0.4, num_key_value_heads=32)
    theirs = saved("LlamaConfig", tmp_path / "llama", rope_theta=100_000.0)
    assert LlamaConfig.model_validate(theirs).rope_theta == 100_000.0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'; only 'default'"),
        ({"rope_parameters": {"rope_theta": 1e5}, "rope_theta": 1e4}, "rope_theta is 100000.0, and rope_theta is 100"),
        ({"rope_parameters": {"factor": 4.0}}, "rope_parameters.factor is not supported"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e5}}}, "full_attention is not supported"),
        ({"rope_parameters": {"rope_theta": "x"}}, "valid number"),
        ({"rope_parameters": [1]}, "not an object"),
    ],
)
@pytest.mark.parametrize("kind", [PhiConfig, LlamaConfig])
def test_other_rotary_keys_are_refused(
    kind: type[PhiConfig | LlamaConfig], keys: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(keys)


def test_both_spellings_may_say_the_same() -> None:
    config = PhiConfig.model_validate(
        {"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}, "rope_theta": 1e5}
    )
    assert (config.rope_theta, config.partial_rotary_factor) == (1e5, 0.5)
    assert PhiConfig.model_validate({"rope_parameters": None}) == PhiConfig()


def test_llama_rotates_whole_heads() -> None:
    assert LlamaConfig.model_validate({"rope_parameters": {"partial_rotary_factor": 1.0}}) == LlamaConfig()
    with pytest.raises(ValidationError, match="Llama rotates whole heads"):
        LlamaConfig.model_validate({"rope_parameters": {"partial_rotary_factor": 0.5}})


KINDS: tuple[type[BaseModel], ...] = (
    PhiConfig,
    LlamaConfig,
    phi3.Phi3Config,
    phi3.VisionConfig,
    phi3.ImageConfig,
    phi3.RopeScaling,
    phi3.PreprocessorConfig,
    h2ovl.MistralText,
    h2ovl.VisionConfig,
    tinyllava.SiglipConfig,
    tinyllava.LegacyTowerConfig,
    tinyllava.ClipConfig,
    tinyllava.FactoryConfig,
    tinyllava.LegacyConfig,
    tinyllava.LlavaConfig,
    preprocessing.Edge,
    preprocessing.Sides,
    preprocessing.PreprocessorConfig,
    tinygptv.VisionConfig,
    QFormerConfig,
    tinygptv.TinyGptvConfig,
)


def numbers() -> Iterator[tuple[type[BaseModel], str, object]]:
    """(config, key, a value that is out of bounds)."""
    for kind in KINDS:
        for key, field in kind.model_fields.items():
            written = repr(field.annotation)
            if "Literal" in written or key.endswith(
                ("_layer", "_idx")
            ):  # layers count from either end, see each config
                continue
            if field.annotation is float:
                yield kind, key, math.inf
                yield kind, key, math.nan
            elif "float" in written:
                yield kind, key, [1.0, math.inf, 1.0]
            elif "int" in written:
                yield kind, key, 10**19


@pytest.mark.parametrize(("kind", "key", "value"), list(numbers()))
def test_a_number_beyond_any_checkpoint_is_refused_by_its_key(kind: type[BaseModel], key: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({key: value})
    assert key in {fault["loc"][0] for fault in caught.value.errors()}


def test_more_layers_than_any_checkpoint_has_are_refused_before_they_are_built() -> None:
    for kind in (PhiConfig, LlamaConfig, phi3.VisionConfig, QFormerConfig):
        with pytest.raises(ValidationError, match="num_hidden_layers"):
            kind.model_validate({"num_hidden_layers": 30_000})
