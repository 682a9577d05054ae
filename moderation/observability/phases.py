"""Where a post in hand stands, from its poll to its commit. Log events, errors and metrics name the phases as here."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """What a post waits for or is at."""

    ISOLATION = "isolation"  # a suspect waits to be alone in the process, or others wait for one that is
    READ = "read"  # its record becomes a post
    FETCH = "fetch"  # the bytes of its images are read
    DECODE = "decode"  # its images become pictures, or wait for memory
    TWIN = "twin"  # the same content under the same id is being judged
    ADMISSION = "admission"  # a place in the batcher
    ENCODE = "encode"  # it becomes the model's input
    BATCH_WAIT = "batch_wait"  # a step of the model
    MODEL = "model"  # a step that it is in
    HELD = "held"  # the model has failed on it: other posts will show which of the two is at fault
    COMMIT = "commit"  # it has its outcome: the transaction that publishes it, and those before it


@dataclass(eq=False, slots=True)
class InHand:
    """One post in hand."""

    size: int  # bytes of its record
    timestamp_ms: int  # of its record
    taken: float  # when it was polled, by time.monotonic
    phase: Phase = Phase.ISOLATION
    reported: bool = False  # as overdue


CURRENT: ContextVar[InHand] = ContextVar("CURRENT")  # the post that a task is about


def enter(phase: Phase) -> None:
    """The current post is in this phase now. Outside the worker there is none, and nothing is done."""
    if (post := CURRENT.get(None)) is not None:
        post.phase = phase
