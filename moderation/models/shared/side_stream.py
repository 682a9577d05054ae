"""Work beside a step: on a stream of its own, that a step waits for only where it uses what was made there."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch


class SideStream(Protocol):
    """Where work runs beside the steps. Belongs to their thread."""

    def work(self) -> AbstractContextManager[Hashable]:
        """What is launched inside runs beside the steps that follow; gives the moment at which it is done."""

    def wait(self, moments: Iterable[Hashable]) -> None:
        """What is launched from now on runs after these moments."""


class CudaSideStream:
    """On CUDA: a second stream, and an event for each stretch of work on it.

    The stream's work begins after all that the main stream was given before. So what a step still reads is never
    overwritten, although it may have gone from the cache: the memory of what was made here goes back to this stream
    alone. Nothing made on the main stream is read here. No GPU has run this yet.
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
    """None: on a CPU the work would only take turns with the step."""
    return CudaSideStream(device) if device.type == "cuda" else None
