"""What one step of the device did, and how a step is reported."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from moderation.observability import metrics

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one step of the device."""

    posts: int
    items: int  # windows of these posts
    tokens: int
    seconds: float
    waiting: int  # posts in the queue at the end of the step
    budget: int = 0  # token budget of a batch


def report(step: Step) -> None:
    """Counts the step in metrics and logs it. The default for `on_step` of the batcher."""
    metrics.STEP.add(step.seconds)
    metrics.BATCH_POSTS.add(step.posts)
    metrics.BATCH_TOKENS.add(step.tokens)
    metrics.BATCH_FILL.add(step.tokens / max(1, step.budget))
    log.debug(
        "step_done",
        posts=step.posts,
        items=step.items,
        tokens=step.tokens,
        seconds=round(step.seconds, 4),
        waiting=step.waiting,
    )
