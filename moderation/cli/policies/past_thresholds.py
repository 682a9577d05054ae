"""`moderation policies diff` for a change of thresholds alone: past verdicts hold the scores, so no model is asked."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console

from moderation.cli import progress
from moderation.cli.policies.compared_posts import From
from moderation.cli.policies.difference import Compared
from moderation.errors import ConfigError
from moderation.settings import Settings

if TYPE_CHECKING:
    from moderation.evaluation.changes.redecided import Redecided
    from moderation.evaluation.changes.wording import PolicyChange
    from moderation.policies import PolicySet

Versions = tuple["PolicySet", "PolicySet"]


def applies(versions: Versions, source: From, *, more: bool) -> bool:
    """Whether past verdicts say what the change does. more: another model is compared, or flips are to be labelled.

    Raises ConfigError, with the reason, where an archive is named and its scores do not say that.
    """
    from moderation.evaluation.changes.redeciding import is_threshold_change

    reason = "posts are needed" if more else is_threshold_change(*versions)
    if source.archive is not None and reason:
        remedy = "the model must be asked: give --posts FILE or --topic in place of --archive"
        raise ConfigError(f"{source.archive}: scores of the past do not say what this change does: {reason}; {remedy}")
    return reason is None and (source.archive is not None or (source.topic and source.sample is None))


def compared(
    loaded: Settings, versions: Versions, words: tuple[PolicyChange, ...], source: From, terminal: Console | None
) -> Compared:
    """What other thresholds do to the verdicts of the topic or of the archive. Raises ModerationError."""
    from moderation.evaluation.changes.promotion import held
    from moderation.evaluation.changes.redecided_change import change_of_redecided, left_out_of, quality_without_labels

    found, left_out = asyncio.run(_redecided(loaded, versions, source, terminal))
    left_out = left_out | left_out_of(found)
    place = source.archive or loaded.kafka.verdicts_topic
    if not found.whole.total:
        why = "; ".join(f"{number:,}: {reason}" for reason, number in left_out.items())
        remedy = f"({why}): judge posts by --sample" if why else "as there are none: give an earlier --since"
        raise ConfigError(f"{place}: no verdict of the period can be decided again {remedy}")
    change = change_of_redecided(found)
    qualities = {effect.policy: quality_without_labels(effect) for effect in change.effects if effect.policy}
    begins, ends = (f"{at:%Y-%m-%d %H:%M}" if at else "-" for at in (found.begins, found.ends))
    return Compared(
        words=words,
        change=change,
        qualities=qualities,
        limits=held(change, qualities, versions[1].policies),
        judged=(),
        models=(),
        source=f"{place}, {begins} to {ends} UTC",
        posts={},
        pairs=(),
        folders=frozenset(),
        left_out=left_out,
    )


async def _redecided(
    loaded: Settings, versions: Versions, source: From, terminal: Console | None
) -> tuple[Redecided, dict[str, int]]:
    """With the verdicts of a topic that do not stand any more, by why: of each post the newest one counts."""
    from moderation.evaluation.changes.redeciding import COLUMNS, Redeciding
    from moderation.evaluation.traffic import archive, traffic
    from moderation.evaluation.traffic.rows import of_verdicts

    begins, ends = source.period()
    redeciding = Redeciding(*versions, alias_removes=loaded.model.alias_may_remove)
    gone: traffic.Counts = Counter()
    if source.archive is not None:
        for batch in archive.batches(source.archive, COLUMNS, begins, ends):  # seconds for a million
            redeciding.add(batch)
    else:
        period = traffic.Period(begins, ends)
        with progress.shown("records", await traffic.size(loaded, period), terminal) as step:
            async for batch in of_verdicts(traffic.verdicts(loaded, period, gone, step)):
                redeciding.add(batch)
    return redeciding.result(), {f"{why}": number for why, number in gone.items()}
