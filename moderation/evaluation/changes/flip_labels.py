"""Labels of flips: which of the posts that one version alone flags violate the policy.

Beside the sample `NAME.sample.jsonl` lies `NAME.flips.json`: which version flags each post, and from which stratum it
is. Who labels does not see that. With the labels it says what the change gains and loses, and asks no model again.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moderation.errors import ConfigError, cause_of
from moderation.evaluation.changes.changes import Effect, OneSided, Pair, Quality, one_sided, quality_of
from moderation.evaluation.changes.promotion import Figures
from moderation.evaluation.changes.strata import Stratum
from moderation.evaluation.files import replaced
from moderation.evaluation.samples import labels, samples
from moderation.evaluation.samples.drawn import pictures
from moderation.evaluation.samples.labels import Settled
from moderation.evaluation.samples.samples import Item, Level, Region, Sample
from moderation.media.fetching import Fetcher
from moderation.policies import Policy, digest_of, score_digest
from moderation.types import ModelInfo, Post

SUFFIX = ".flips.json"
MEANS = {Settled.VIOLATES: True, Settled.ALLOWED: False}  # any other may be either

Count = Annotated[int, Field(ge=0, strict=True)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _Stratum(_Part):
    name: str
    size: Count | None
    judged: Count


class _Flip(_Part):
    post_id: str
    stratum: Count
    gained: bool
    group: str


class _Figures(_Part):
    flips: float
    review: float | None


class _State(_Part):
    """The file beside the sample."""

    format: Literal[1] = 1
    policy: str
    old: str  # digest of the old version of the policy, as of a set of it alone
    new: str
    sample: str  # digest of the sample's file
    source: str
    strata: tuple[_Stratum, ...]
    flips: tuple[_Flip, ...]
    figures: _Figures


@dataclass(frozen=True, slots=True)
class Drawn:
    """The posts that both versions judged, and where they are from."""

    pairs: Sequence[Pair]
    strata: Sequence[Stratum]
    posts: Mapping[str, Post]  # by id
    source: str
    seed: int
    model: ModelInfo  # of the new version


@dataclass(frozen=True, slots=True)
class Labelled:
    """What the labels of flips say up to now."""

    quality: Quality
    figures: Figures  # of the change, when the flips were found
    source: str
    labellers: tuple[str, ...]


async def begin(path: Path, versions: tuple[Policy, Policy], drawn: Drawn, effect: Effect, fetcher: Fetcher) -> int:
    """Writes the flips of a policy as a sample to label, equal contents once. Returns how many; 0: nothing is written.

    Raises ConfigError where a file cannot be written, or is there already.
    """
    old, new = versions
    model = drawn.model
    flips = one_sided(drawn.pairs, new.id)
    groups = {pair.post_id: pair.before.content_digest or _own_digest(pair.post_id) for pair in drawn.pairs}
    first = {groups[flip.post_id]: flip.post_id for flip in reversed(flips)}
    if not first:
        return 0
    order = sorted(first)
    random.Random(drawn.seed).shuffle(order)  # noqa: S311  a draw that can be repeated
    items = [Item(number, group, 0, drawn.posts[first[group]]) for number, group in enumerate(order, 1)]
    now = datetime.now(UTC)
    sample = Sample(
        policy=new.id,
        policy_version=new.version,
        score_digest=score_digest(new, model.digest),
        model_name=model.name,
        model_digest=model.digest,
        region=Region.FLIPS,
        levels=(Level(new.thresholds.review, len(order)),),
        seed=drawn.seed,
        source=drawn.source,
        begins=now,
        ends=now,
        drawn_at=now,
    )
    async with pictures(items, path, fetcher) as illustrated:
        samples.write(path, sample, illustrated)
    state = _State(
        policy=new.id,
        old=digest_of([old]),
        new=digest_of([new]),
        sample=samples.read_with_digest(path)[2],
        source=drawn.source,
        strata=tuple(_Stratum(**asdict(stratum)) for stratum in drawn.strata),
        flips=tuple(_Flip(**asdict(flip), group=groups[flip.post_id]) for flip in flips),
        figures=_Figures(**asdict(Figures.of(effect))),
    )
    replaced(_beside(path), state.model_dump_json(indent=1).encode() + b"\n", 0o600)
    return len(items)


def read(path: Path, versions: tuple[Policy, Policy]) -> Labelled:
    """What the labels of a sample of flips say. Raises ConfigError: another policy, other versions, a broken file."""
    old, new = versions
    state = _read(_beside(path))
    settlement = labels.settled(path, new)
    again = "compare the versions again, with another FILE"
    if state.policy != new.id:
        raise ConfigError(f"{path}: these are flips of the policy {state.policy}: give --policy {state.policy}")
    if (state.old, state.new) != (digest_of([old]), digest_of([new])):
        raise ConfigError(f"{path}: these are flips between other versions of {state.policy}: {again}")
    if state.sample != samples.read_with_digest(path)[2]:
        raise ConfigError(f"{_beside(path)}: it belongs to another sample: {again}")
    means = {item.group: MEANS.get(label) for item, label in zip(settlement.items, settlement.labels, strict=True)}
    flips = [OneSided(flip.post_id, flip.stratum, flip.gained) for flip in state.flips]
    strata = [Stratum(each.name, each.size, each.judged) for each in state.strata]
    said = {flip.post_id: means.get(flip.group) for flip in state.flips}
    return Labelled(
        quality=quality_of(new.id, flips, strata, said),
        figures=Figures(state.figures.flips, state.figures.review),
        source=state.source,
        labellers=settlement.labellers,
    )


def _beside(path: Path) -> Path:
    if not path.name.endswith(samples.SUFFIX):
        raise ConfigError(f"{path}: give the file a name that ends in {samples.SUFFIX}")
    return path.with_name(f"{path.name.removesuffix(samples.SUFFIX)}{SUFFIX}")


def _read(path: Path) -> _State:
    remedy = "compare the versions again, with another FILE"
    try:
        return _State.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {cause_of(error)}: {remedy}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"{path}: {key}: {first['msg'].lower()}: {remedy}") from None


def _own_digest(id: str) -> str:
    """In place of a content's digest, where the content could not be read."""
    return hashlib.sha256(f"post {id}".encode()).hexdigest()
