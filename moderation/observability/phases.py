"""The phases of a post, from its topic to its commit. Metrics, traces, timings, logs and `top` use these names."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """What a post waits for, or what is done with the post."""

    QUEUE = "queue"  # the post waits on its topic; no worker holds the post
    ISOLATION = "isolation"  # a suspect waits to be alone in the process, or others wait for a suspect
    READ = "read"  # the record becomes a post
    FETCH = "fetch"  # the bytes of the images are read
    DECODE = "decode"  # the images become pictures, or wait for memory
    DUPLICATE = "duplicate"  # the same content under the same id is being judged
    ADMISSION = "admission"  # the post waits for a place in the batcher
    ENCODE = "encode"  # the post becomes the model's input
    BATCH_WAIT = "batch_wait"  # the encoded post waits for a step of the model
    MODEL = "model"  # the post is in a step of the model
    OUTAGE = "outage"  # the server of a remote model is away; the post waits until the server is back
    HELD = "held"  # the model failed on the post; other posts show whether the post or the model is at fault
    COMMIT = "commit"  # the post has its outcome and waits for the transaction that publishes the outcome


# The fields of types.Timings, of the message Timings and of the JSON's `timings`, in their order.
TIMINGS = (Phase.QUEUE, Phase.FETCH, Phase.DECODE, Phase.ENCODE, Phase.BATCH_WAIT, Phase.MODEL)
MEASURED = (*TIMINGS, Phase.COMMIT)  # the phases of moderation_phase_seconds
IN_HAND = tuple(phase for phase in Phase if phase is not Phase.QUEUE)  # the phases of moderation_worker_posts_in_phase


@dataclass(eq=False, slots=True)
class InHand:
    """One post in hand."""

    size: int  # bytes of its record
    arrived: float  # when its record arrived on its topic, by time.perf_counter
    taken: float  # when the post was polled, by time.monotonic
    phase: Phase = Phase.ISOLATION
    reported: bool = False  # as overdue


CURRENT: ContextVar[InHand] = ContextVar("CURRENT")  # the post of the current task


def enter(phase: Phase) -> None:
    """Sets the phase of the current post. Does nothing outside the worker, where there is no current post."""
    if (post := CURRENT.get(None)) is not None:
        post.phase = phase
