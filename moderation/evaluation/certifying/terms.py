"""The terms of a test, kept beside its sample. Who chooses them by the labels, chooses what comes out.

spam.sample.jsonl has its terms in spam.terms.json. They are written when the sample is first tested, before a result is
shown. A test with other terms is refused.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from moderation.errors import ConfigError, cause_of
from moderation.evaluation.certifying.certification import Design
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


def keep(sample: Path, terms: Terms) -> None:
    """Writes the terms of the first test, or compares them with these. Raises ConfigError where they differ.

    Call it once there are labels: until then a test shows nothing.
    One threshold may be tested for any share: the bounds of all shares hold together. Of several thresholds the first
    that is not as claimed depends on the share, so that it must be fixed.
    """
    path = path_of(sample)
    data = terms.model_dump_json(exclude_none=True).encode() + b"\n"
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        _compare(path, terms)
    except OSError as error:
        raise ConfigError(f"{path}: not written: {cause_of(error)}") from None


def _compare(path: Path, terms: Terms) -> None:
    try:
        first = Terms.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise ConfigError(f"{path}: no terms of a test: take the file from where you keep it") from None
    for key, option in (("design", "--design"), ("confidence", "--confidence"), ("share", "the share")):
        before, now = getattr(first, key), getattr(terms, key)
        if before != now:
            raise ConfigError(
                f"{path}: {key}: this sample was first tested with {before}, now {option} says {now}. Terms that are "
                f"chosen after labels were seen prove nothing: test with {before}, or draw another sample"
            )
