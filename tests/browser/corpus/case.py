"""One file of the corpus."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """A file that a browser is asked to show. `suffix`: of its name, as `png`: all readers go by the bytes."""

    name: str
    suffix: str
    data: bytes
    shown: bool = True  # whether the browser shows it. Of what it does not, nothing is compared
