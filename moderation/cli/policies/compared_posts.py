"""The posts that `moderation policies diff` compares two versions on: of a file, or of past traffic."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from moderation.cli import progress
from moderation.cli.options import err
from moderation.cli.periods import time_of
from moderation.errors import ConfigError
from moderation.settings import Settings

if TYPE_CHECKING:
    from moderation.evaluation.changes.strata import Stratum
    from moderation.policies import PolicySet
    from moderation.types import Post, Verdict

SAMPLE = 2_000  # posts of a topic that are judged unless --sample says otherwise
SHOWN = 10  # rows that cannot be read


@dataclass(frozen=True, slots=True)
class From:
    """What the options say of the posts, and of how they are judged."""

    file: Path | None
    topic: bool
    since: str
    until: str | None
    archive: Path | None
    sample: int | None
    seed: int
    new_model: str | None  # None: the same as for the old version
    fresh: bool  # answers of earlier runs do not count

    def __post_init__(self) -> None:
        """Raises ConfigError for options that do not go together: none is ignored."""
        if self.file is not None and self.topic:
            raise ConfigError("give --posts FILE or --topic, and not both")
        if self.archive is not None and (self.file is not None or self.topic):
            raise ConfigError("--archive goes with none of --posts, --topic and --sample: it holds no posts")

    def period(self) -> tuple[datetime, datetime]:
        """Begin and end. Raises ConfigError."""
        now = datetime.now(UTC)
        begins, ends = time_of(self.since, "--since") or now, time_of(self.until, "--until") or now
        if begins >= ends:
            raise ConfigError("the period ends before it begins: give an earlier --since, or a later --until")
        return begins, ends


@dataclass(frozen=True, slots=True)
class Chosen:
    """The posts that both versions judge."""

    posts: Sequence[Post]
    stratum: Sequence[int]  # of each post
    slices: Sequence[Mapping[str, str]]  # of each post
    strata: tuple[Stratum, ...]
    known: Mapping[int, Verdict]  # earlier verdicts, by place of the post
    source: str
    folders: frozenset[Path] = frozenset()
    left_out: Mapping[str, int] = field(default_factory=dict)  # of a topic: posts that could not be read, by why


async def chosen_posts(
    source: From, loaded: Settings, old: tuple[PolicySet, Collection[str]], terminal: Console | None
) -> Chosen:
    """The posts. old: the old set, and ids of the policies that change. Raises ModerationError."""
    if source.file is not None:
        return _of_file(source.file, source, loaded)
    if source.topic:
        return await _of_topic(source, loaded, old, terminal)
    if source.archive is not None:
        raise ConfigError("--archive holds no posts, and this change needs the model: give --posts FILE, or --topic")
    raise ConfigError("name the posts to compare on: --posts FILE, or --topic")


async def _of_topic(
    source: From, loaded: Settings, old: tuple[PolicySet, Collection[str]], terminal: Console | None
) -> Chosen:
    from moderation.evaluation.changes.past import past
    from moderation.evaluation.traffic.traffic import Period

    period = Period(*source.period())
    found = await past(
        loaded, period, old, (source.sample or SAMPLE, source.seed), partial(progress.shown, terminal=terminal)
    )
    return Chosen(
        posts=found.posts,
        stratum=found.stratum,
        slices=[_slices(post) for post in found.posts],
        strata=found.strata,
        known=found.known,
        source=f"{loaded.kafka.posts_topic}, {period}",
        left_out=found.left_out,
    )


def _of_file(path: Path, source: From, loaded: Settings) -> Chosen:
    """The posts of a file, or a sample of them. A file holds no margins: strata are by language and pictures.

    A row that cannot be read is said and counted.
    """
    from moderation.evaluation.changes import strata
    from moderation.evaluation.changes.strata import Band, Stratum, Traits
    from moderation.evaluation.posts import tables

    table = tables.read(path, loaded.media)
    rows = {row.post.id: row for row in table.rows}
    wrong = [f"{mistake}" for mistake in table.mistakes]
    wrong += [
        f"{path}:{row.line}: post.id: another row has this id, too: give each post its own, or none"
        for row in table.rows
        if rows[row.post.id] is not row
    ]
    for line in wrong[:SHOWN]:
        err.print(line, highlight=False, markup=False)
    if not rows:
        raise ConfigError(f"{path}: no row can be read: mend them as the lines above say")
    posts = [row.post for row in rows.values()]
    slices = [_slices(row.post) | dict(row.members.get("slices") or {}) for row in rows.values()]
    left_out = {"their rows cannot be read": len(wrong)} if wrong else {}
    if source.sample is None or source.sample >= len(posts):
        whole = (Stratum("all posts", None, len(posts)),)
        return Chosen(posts, [0] * len(posts), slices, whole, {}, str(path), table.folders, left_out)
    traits = [Traits(Band.UNKNOWN, post.language, post.has_images) for post in posts]
    draw = strata.drawn(traits, source.sample, source.seed)
    places = [(place, stratum) for stratum, chosen in enumerate(draw.chosen) for place in chosen]
    return Chosen(
        posts=[posts[place] for place, _ in places],
        stratum=[stratum for _, stratum in places],
        slices=[slices[place] for place, _ in places],
        strata=draw.strata,
        known={},
        source=str(path),
        folders=table.folders,
        left_out=left_out,
    )


def _slices(post: Post) -> dict[str, str]:
    """What a post is one of."""
    known = {"language": post.language, "surface": post.surface, "tenant": post.tenant}
    return {"pictures": "yes" if post.has_images else "no"} | {key: value for key, value in known.items() if value}
