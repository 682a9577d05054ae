"""What the view's files may take on the disk, and how that bound is divided between them.

SQLite bounds its database file (max_page_count) and not its write-ahead log. The log holds every page that a
transaction changes. It can be emptied only while no connection reads an older state. So the pages that a transaction
can change are bounded, and the bound must fit into the rest of the log. The log is emptied before a transaction that
would not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from moderation.errors import ConfigError
from moderation.view.stores import LARGEST_VERDICT, Entry

PAGE = 4096
SMALLEST = 32 << 20  # bound in bytes: with less, the log has no room for the largest verdict in place of another
LARGEST_LOG = 128 << 20  # 500 records at once; more would gain nothing
RECORD_PAGES = 24  # that a record changes at most, without its verdict: a leaf in each of six trees, twice, and splits
FRAME = PAGE + 24  # of the log, for each page
INDEX_FRAMES = 4096  # of the log, to each INDEX_BYTES of the -shm file
INDEX_BYTES = 32 << 10
ALLOWANCE = 64 << 10  # the log's header, the lock file
EVERY_PAGE = (1 << 30) - 2  # as many as SQLite can number

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Budget:
    """The parts of a bound."""

    pages: int  # of the database file
    log_bytes: int  # of the write-ahead log

    @property
    def transaction_bytes(self) -> int:
        """Of the log, for one transaction: half, so that not every transaction has to empty the log."""
        return self.log_bytes // 2

    @property
    def records(self) -> int:
        """Records that fit one transaction, if their verdicts are short."""
        return max(1, self.transaction_bytes // log_bytes(0))


def check(bound: int) -> None:
    """Raises ConfigError for a bound that is too small. 0: no bound."""
    if 0 < bound < SMALLEST:
        raise ConfigError(
            f"MODERATION_API__VIEW_MAX_BYTES: {bound} is too small for a view with its write-ahead log: at least "
            f"{SMALLEST}, or 0 for no bound"
        )


def divided(bound: int, aside: Path) -> Budget:
    """Divides a bound on all files. A file that was set aside takes its part first. Raises ConfigError."""
    if not bound:
        return Budget(EVERY_PAGE, LARGEST_LOG)
    taken = size(aside)
    if bound - taken < SMALLEST:
        raise ConfigError(
            f"MODERATION_API__VIEW: {aside} was set aside and takes {taken} of the {bound} bytes that "
            "MODERATION_API__VIEW_MAX_BYTES allows: move it elsewhere, or delete it if it is not needed"
        )
    left = bound - taken
    log = min(left // 4, LARGEST_LOG)
    index = (log // FRAME // INDEX_FRAMES + 2) * INDEX_BYTES
    return Budget((left - log - index - ALLOWANCE) // PAGE, log)


def size(path: Path) -> int:
    """Returns the bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def log_bytes(verdict_bytes: int) -> int:
    """Returns an upper bound on the bytes of the log for a record that writes or frees so many bytes of verdicts."""
    return (RECORD_PAGES + verdict_bytes // PAGE) * FRAME


def pages(entries: Iterable[Entry]) -> int:
    """Returns a bound on the pages of the database file for these records, if splits of its trees even out."""
    return RECORD_PAGES + sum(2 + (len(entry.verdict or b"") + 4 * len(entry.post_id)) // PAGE for entry in entries)


def pieces(items: Iterable[T], cost: Callable[[T], int], limit: int) -> Iterator[list[T]]:
    """Splits items, in order, into runs whose cost is at most `limit`. An item that costs more comes alone."""
    piece: list[T] = []
    total = 0
    for item in items:
        if piece and total + cost(item) > limit:
            yield piece
            piece, total = [], 0
        piece.append(item)
        total += cost(item)
    if piece:
        yield piece


assert log_bytes(2 * LARGEST_VERDICT) <= SMALLEST // 8  # noqa: S101  a verdict that replaces another fits a transaction
