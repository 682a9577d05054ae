"""The terms of a test are those of its first run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.certifying import terms
from moderation.evaluation.certifying.certification import Design
from moderation.evaluation.certifying.terms import Terms


def some(**fields: Any) -> Terms:
    return Terms.model_validate({"design": Design.SEQUENTIAL, "confidence": 0.95} | fields)


def test_the_same_terms_may_be_tested_again(tmp_path: Path) -> None:
    sample = tmp_path / "spam.sample.jsonl"
    terms.keep(sample, some(share=0.9), labelled=False)
    terms.keep(sample, some(share=0.95), labelled=False)
    assert (tmp_path / "spam.terms.json").read_text() == '{"design":"sequential","confidence":0.95,"share":0.95}\n'
    terms.keep(sample, some(share=0.95), labelled=True)
    assert [path.name for path in tmp_path.iterdir()] == ["spam.terms.json"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"design": Design.FIXED}, "design: this sample is tested with sequential, now --design says fixed"),
        ({"confidence": 0.9}, "confidence: this sample is tested with 0.95, now --confidence says 0.9"),
        ({"share": 0.8}, "share: this sample is tested with None, now the share says 0.8"),
    ],
)
def test_other_terms_are_refused(fields: dict[str, Any], says: str, tmp_path: Path) -> None:
    sample = tmp_path / "spam.sample.jsonl"
    terms.keep(sample, some(), labelled=True)
    with pytest.raises(ConfigError) as caught:
        terms.keep(sample, some(**fields), labelled=True)
    assert f"{tmp_path / 'spam.terms.json'}: {says}" in str(caught.value)
    assert "draw another sample" in str(caught.value)
    terms.keep(sample, some(), labelled=True)


@pytest.mark.parametrize("design", [Design.FIXED, Design.FINITE])
def test_a_fixed_n_is_chosen_before_the_first_label(design: Design, tmp_path: Path) -> None:
    sample = tmp_path / "spam.sample.jsonl"
    with pytest.raises(ConfigError, match=rf"spam\.terms\.json: .* --design {design} was not fixed before the first"):
        terms.keep(sample, some(design=design), labelled=True)
    assert not list(tmp_path.iterdir())
    terms.keep(sample, some(design=design), labelled=True, chosen=False)
    terms.keep(sample, some(design=design), labelled=True)


def test_a_broken_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "spam.terms.json").write_text("{")
    with pytest.raises(ConfigError, match=r"spam\.terms\.json: no terms of a test"):
        terms.keep(tmp_path / "spam.sample.jsonl", some(), labelled=True)


def test_a_folder_that_takes_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not written: no such file or directory"):
        terms.keep(tmp_path / "gone" / "spam.sample.jsonl", some(), labelled=True)
