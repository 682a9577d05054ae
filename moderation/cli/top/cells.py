"""Numbers as the page shows them. "-" stands for what is not known."""

from __future__ import annotations

import math


def count(value: float) -> str:
    """A whole number."""
    return "-" if math.isnan(value) else f"{value:,.0f}"


def number(value: float) -> str:
    """A number with one decimal."""
    return "-" if math.isnan(value) else f"{value:,.1f}"


def rate(value: float) -> str:
    """A number per second."""
    return f"{value:,.1f}"


def share(value: float) -> str:
    """A share in per cent."""
    return "-" if math.isnan(value) else f"{value:.0%}"


def seconds(value: float) -> str:
    """A time."""
    if math.isnan(value):
        return "-"
    if value >= 120:
        return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
    if value >= 1:
        return f"{value:.1f} s"
    return f"{value * 1000:.1f} ms" if 0 < value < 0.01 else f"{value * 1000:.0f} ms"


def size(value: float) -> str:
    """Bytes as MiB or GiB."""
    return f"{value / (1 << 30):.1f} GiB" if value >= 1 << 30 else f"{value / (1 << 20):.0f} MiB"
