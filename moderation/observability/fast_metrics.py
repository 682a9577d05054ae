"""Counters and histograms for events that happen several times for every post.

The metrics of prometheus_client take a lock for each count and walk their buckets one by one. For a post with six
policies this would cost as much as decoding the post. Fast metrics are counted on one thread, without a lock, and
collected when Prometheus asks. For events that happen once a batch, a transaction or a call, use prometheus_client's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from enum import Enum

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class FastCounter(Collector):
    """A counter by labels: `counter.counts["spam", Outcome.REMOVE] += 1`. An enum's member is written by its name."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry = REGISTRY) -> None:
        self.name, self.labels = name, tuple(labels)
        self.counts: defaultdict[tuple[Hashable, ...], int] = defaultdict(int)
        self.text = text
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The counts up to now."""
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for key, count in list(self.counts.items()):
            family.add_metric([_written(label) for label in key], count)
        yield family


class Series:
    """One histogram of a FastHistogram."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.counts = [0] * (len(bounds) + 1)  # of each bucket alone; the last is beyond all bounds
        self.total = 0.0
        self._bounds = bounds

    def add(self, value: float) -> None:
        """Adds an observation."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class FastHistogram(Collector):
    """A histogram, one Series for each set of labels."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        text: str,
        bounds: Sequence[float],
        labels: Sequence[str] = (),
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self.name, self.labels = name, tuple(labels)
        self.text = text
        self._bounds = tuple(sorted(bounds))
        self._written = [*map(floatToGoString, self._bounds), "+Inf"]
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)

    def series(self, *labels: str) -> Series:
        """The series of these values of the labels. Callers keep it."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {', '.join(self.labels)}")
        return self._series.setdefault(labels, Series(self._bounds))

    def collect(self) -> Iterator[Metric]:
        """The observations up to now."""
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for labels, series in list(self._series.items()):
            counts, total, cumulated = list(series.counts), series.total, 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip(self._written, counts, strict=True):
                cumulated += count
                buckets.append((bound, cumulated))
            family.add_metric(labels, buckets, total)
        yield family


def _written(label: Hashable) -> str:
    return label.name.lower() if isinstance(label, Enum) and not isinstance(label, str) else str(label)
