"""Sums and rates over several endpoints. A rate is taken between two readings of the same endpoint."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from moderation.cli.top.reading import Key, Reading


class Frame:
    """Two readings of each endpoint, and the sums and rates over all endpoints."""

    def __init__(self, before: Sequence[Reading], now: Sequence[Reading]) -> None:
        self.before, self.now = before, now
        earlier = {reading.url: reading for reading in before if not reading.problem}
        self._values: dict[Key, list[float]] = defaultdict(list)
        self._gains: dict[Key, float] = defaultdict(float)
        self._rates: dict[Key, float] = defaultdict(float)
        for reading in now:
            first = earlier.get(reading.url)
            seconds = reading.at - first.at if first else 0.0
            for key, value in reading.samples.items():
                self._values[key].append(value)
                if first and seconds > 0:
                    was = first.samples.get(key, 0.0)
                    gain = value - was if value >= was else value  # the process was restarted
                    self._gains[key] += gain
                    self._rates[key] += gain / seconds

    def _keys(self, name: str, labels: Mapping[str, str]) -> Iterator[Key]:
        wanted = set(labels.items())
        return (key for key in self._values if key[0] == name and wanted <= set(key[1]))

    def has(self, name: str) -> bool:
        """Whether any endpoint has the metric."""
        return any(True for _ in self._keys(name, {}))

    def total(self, name: str, **labels: str) -> float:
        """The sum of the current values."""
        return sum(sum(self._values[key]) for key in self._keys(name, labels))

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """The largest current value for each value of a label; NaN if all are NaN.

        During a rebalance two workers may show the same partition.
        """
        values: dict[str, list[float]] = defaultdict(list)
        for key in self._keys(name, {}):
            values[dict(key[1])[label]] += self._values[key]
        return {
            value: max((one for one in several if not math.isnan(one)), default=math.nan)
            for value, several in values.items()
        }

    def highest(self, name: str) -> float:
        """The largest current value; NaN if an endpoint reports NaN."""
        values = [value for key in self._keys(name, {}) for value in self._values[key]]
        return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)

    def gain(self, name: str, **labels: str) -> float:
        """Increase of a counter between the two readings."""
        return sum(self._gains[key] for key in self._keys(name, labels))

    def rate(self, name: str, **labels: str) -> float:
        """Increase of a counter per second."""
        return sum(self._rates[key] for key in self._keys(name, labels))

    def labels(self, name: str, label: str) -> list[str]:
        """All values of a label, sorted."""
        return sorted({dict(key[1])[label] for key in self._keys(name, {}) if label in dict(key[1])})

    def mean(self, name: str, **labels: str) -> float:
        """Mean of a histogram between the two readings; NaN if nothing was observed."""
        count = sum(self._gains[key] for key in self._keys(f"{name}_count", labels))
        total = sum(self._gains[key] for key in self._keys(f"{name}_sum", labels))
        return total / count if count else math.nan

    def quantile(self, share: float, name: str, **labels: str) -> float:
        """Quantile of a histogram between the two readings, as Prometheus computes it; NaN if nothing was observed."""
        counts: dict[float, float] = defaultdict(float)
        for key in self._keys(f"{name}_bucket", labels):
            counts[float(dict(key[1])["le"])] += self._gains[key]
        bounds = sorted(counts)
        if not bounds or not counts[bounds[-1]]:
            return math.nan
        rank = share * counts[bounds[-1]]
        place = next(index for index, bound in enumerate(bounds) if counts[bound] >= rank)
        if math.isinf(bounds[place]):
            return bounds[place - 1] if place else math.nan
        below, passed = (bounds[place - 1], counts[bounds[place - 1]]) if place else (0.0, 0.0)
        inside = counts[bounds[place]] - passed
        return below + (bounds[place] - below) * ((rank - passed) / inside if inside else 0.0)
