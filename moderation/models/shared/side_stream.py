"""A side stream: work that runs parallel to a step. A step waits only for the parts of the work that it uses."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch


class SideStream(Protocol):
    """Where work runs parallel to the steps. Belongs to the thread of the steps."""

    def work(self) -> AbstractContextManager[Hashable]:
        """Work launched inside runs parallel to the steps that follow. Yields the moment at which it is done."""

    def wait(self, moments: Iterable[Hashable]) -> None:
        """Work launched on the main stream from now on runs after these moments."""


class CudaSideStream:
    """A second CUDA stream, and an event for each stretch of work on it.

    The work starts after everything that the main stream was given before. So features that a step still reads are
    never overwritten, even if the cache has dropped them: memory allocated here returns to this stream alone. The work
    reads nothing that the main stream computes. Not run on a GPU yet.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None

    @contextmanager
    def work(self) -> Iterator[torch.cuda.Event]:
        """See SideStream."""
        self._stream = self._stream or torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            try:
                yield done
            finally:  # part of it may be kept, and an event that was never recorded is not waited for
                done.record(self._stream)

    def wait(self, moments: Iterable[Hashable]) -> None:
        """See SideStream."""
        for moment in moments:
            assert isinstance(moment, torch.cuda.Event)  # noqa: S101 - it comes from `work`
            torch.cuda.current_stream(self._device).wait_event(moment)


def side_stream(device: torch.device) -> SideStream | None:
    """The side stream of a device; None on a CPU, where the work would only take turns with the step."""
    return CudaSideStream(device) if device.type == "cuda" else None
