"""Samples on disk with the labels of two people, as `moderation policies label` writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from moderation.evaluation.samples import labels, samples
from moderation.evaluation.samples.samples import Item, Sample
from moderation.policies import Policy, score_digest
from tests.support.samples import a_sample, some_items

MODEL = "a" * 64
YES, NO, UNKNOWN = "violates", "allowed", "undecidable"


def sample_of(policy: Policy, **fields: Any) -> Sample:
    """A sample of the policy as it is, drawn an hour ago."""
    now = datetime.now(UTC).replace(microsecond=0)
    drawn = {"drawn_at": now - timedelta(hours=1), "begins": now - timedelta(days=2), "ends": now - timedelta(hours=2)}
    known = {"policy": policy.id, "policy_version": policy.version, "score_digest": score_digest(policy, MODEL)}
    return a_sample(**known | drawn | {"model_digest": MODEL} | fields)


def drawn(path: Path, sample: Sample, items: Sequence[Item] | int) -> Path:
    """The file of a sample, also of so many plain items."""
    samples.write(path, sample, some_items(items) if isinstance(items, int) else items)
    return path


def say(path: Path, said: Iterable[str | None], people: Sequence[str] = ("anna", "ben")) -> Path:
    """Has people label the items in their order; None: not labelled. Labels that they gave before are gone."""
    digest = samples.read_with_digest(path)[2]
    given = [(number, label) for number, label in enumerate(said, 1) if label is not None]
    for name in people:
        lines: list[dict[str, Any]] = [{"sample": digest, "labeller": name}]
        for number, label in given:
            word, _, clause = label.partition(":")
            lines.append({"item": number, "label": word, "clause": clause, "at": "2026-11-01T00:00:00Z"})
        labels.path_of(path, name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
