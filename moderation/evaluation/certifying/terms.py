"""The terms of a test, kept beside its sample. Who chooses them by the labels, chooses what comes out.

spam.sample.jsonl has its terms in spam.terms.json. They are written when the sample is tested. Until it has a label,
another test replaces them. Then a test with other terms is refused.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from moderation.errors import ConfigError
from moderation.evaluation.certifying.certification import Design
from moderation.evaluation.files import replaced
from moderation.evaluation.samples import samples

SUFFIX = ".terms.json"


class Terms(BaseModel):
    """What is fixed before labels are looked at."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    design: Design
    confidence: float
    share: float | None = None  # fixed where several thresholds are tested; None: the labels may choose it


def path_of(sample: Path) -> Path:
    """The file of a sample's terms."""
    return sample.with_name(sample.name.removesuffix(samples.SUFFIX) + SUFFIX)


def keep(sample: Path, terms: Terms, *, labelled: bool, chosen: bool = True) -> None:
    """Writes the terms of a test, or compares them with those that were fixed. Raises ConfigError where they differ.

    labelled: whether the sample has a label. chosen: whether there are other designs to choose from.
    One threshold may be tested for any share: the bounds of all shares hold together. Of several thresholds the first
    that is not as claimed depends on the share, so that it must be fixed. A design for a fixed n must be chosen before
    the first label: of two tests on the same labels, one certifies a false claim more often than one alone.
    """
    path = path_of(sample)
    if labelled and path.exists():
        _compare(path, terms)
        return
    if labelled and chosen and terms.design is not Design.SEQUENTIAL:
        raise ConfigError(
            f"{path}: there is no such file, so that --design {terms.design} was not fixed before the first label, and "
            "proves nothing now: test with --design sequential, or draw another sample and call certify before it has "
            "labels"
        )
    replaced(path, terms.model_dump_json(exclude_none=True).encode() + b"\n")


def _compare(path: Path, terms: Terms) -> None:
    try:
        first = Terms.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise ConfigError(f"{path}: no terms of a test: take the file from where you keep it") from None
    for key, option in (("design", "--design"), ("confidence", "--confidence"), ("share", "the share")):
        before, now = getattr(first, key), getattr(terms, key)
        if before != now:
            raise ConfigError(
                f"{path}: {key}: this sample is tested with {before}, now {option} says {now}. Terms that are "
                f"chosen after labels were seen prove nothing: test with {before}, or draw another sample"
            )
