"""`moderation top`: the sum of the /metrics of several workers and APIs, as one page in a terminal.

A rate is taken between two readings of the same endpoint. An endpoint that cannot be read is listed with its error and
adds nothing to the sums.
"""

from __future__ import annotations

import http.client
import math
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from moderation import settings
from moderation.errors import ConfigError
from moderation.observability import phases
from moderation.types import Origin

FETCH_S = 3.0
MAX_BYTES = 32 << 20
OUTCOMES = ("allow", "review", "remove")
OUTAGE = "moderation_model_outage"
GIVEN_UP = "moderation_model_outage_given_up"

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]


def top(
    endpoints: Annotated[
        list[str] | None, typer.Argument(help="host:port or URL of each; default MODERATION_OPS__LISTEN, or port 9464")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="seconds between two readings")] = 2.0,
    once: Annotated[
        bool,
        typer.Option("--once", help="print one page after one interval, and exit; with 1 if an endpoint is not read"),
    ] = False,
) -> None:
    """Show lag, rates, batches, outcomes and calls of workers and APIs, from their /metrics. Ctrl-C ends it."""
    targets = endpoints or [settings.load().ops.listen or "127.0.0.1:9464"]
    urls = [address(target) for target in targets]
    with suppress(KeyboardInterrupt):
        if not render(urls, Console(), interval=interval, once=once):
            sys.exit(1)


@dataclass(frozen=True, slots=True)
class Reading:
    """The samples of one endpoint at one moment."""

    url: str
    at: float
    samples: Mapping[Key, float] = field(default_factory=dict)
    problem: str = ""  # why there are no samples


def address(endpoint: str) -> str:
    """The URL of the metrics of an endpoint: host:port, or a URL. Raises ConfigError."""
    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{endpoint}: neither host:port nor an http(s) URL")
    if parts.hostname in ("0.0.0.0", "::"):  # noqa: S104  a role listens there; a caller cannot connect to it
        url = url.replace("0.0.0.0", "127.0.0.1", 1).replace("[::]", "[::1]", 1)  # noqa: S104
    return url if parts.path not in ("", "/") else url.rstrip("/") + "/metrics"


def read(url: str) -> Reading:
    """Reads an endpoint. A failure is part of the result."""
    try:
        with urllib.request.urlopen(url, timeout=FETCH_S) as response:  # noqa: S310  http or https: see address
            text = response.read(MAX_BYTES).decode()
        return Reading(url, time.monotonic(), parse(text))
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None)
        cause = reason if isinstance(reason, OSError) else error
        return Reading(url, time.monotonic(), problem=str(getattr(cause, "strerror", None) or type(cause).__name__))
    except ValueError:
        return Reading(url, time.monotonic(), problem="no metrics there")


def parse(text: str) -> dict[Key, float]:
    """Samples by name and labels. Raises ValueError."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("moderation_")
    }


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

    def highest(self, name: str) -> float:
        """The largest current value; NaN if an endpoint reports NaN."""
        values = [value for key in self._keys(name, {}) for value in self._values[key]]
        return math.nan if any(map(math.isnan, values)) else max(values, default=0.0)

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


def page(frame: Frame) -> RenderableType:
    """The whole page."""
    parts: list[RenderableType] = [_endpoints(frame)]
    roles = frame.labels("moderation_build_info", "role")
    if "worker" in roles:
        parts += [_keeping_up(frame), _phases(frame)]
        if frame.has("moderation_model_requests_total"):
            parts.append(_model_server(frame))
        parts.append(_outcomes(frame))
        if frame.has("moderation_findings_total"):
            parts.append(_policies(frame))
        if frame.has("moderation_dead_letters_total"):
            parts.append(_dead_letters(frame))
    if "api" in roles:
        parts.append(_api(frame))
    return Group(*parts)


def render(urls: Sequence[str], console: Console, *, interval: float, once: bool) -> bool:
    """Prints one page, or keeps one page up to date until Ctrl-C. Returns whether all endpoints could be read."""
    with ThreadPoolExecutor(len(urls)) as pool:
        before = list(pool.map(read, urls))
        if once:
            time.sleep(interval)  # rates are taken over this time
            now = list(pool.map(read, urls))
            console.print(page(Frame(before, now)))
            return not any(reading.problem for reading in now)
        with Live(page(Frame((), before)), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                now = list(pool.map(read, urls))
                live.update(page(Frame(before, now)), refresh=True)
                before = now


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if not index else "right", no_wrap=True, header_style="dim")
    return table


def _endpoints(frame: Frame) -> Table:
    table = _table("", "endpoint", "role", "version", "loop late p99")
    for reading in frame.now:
        if reading.problem:
            table.add_row(reading.url, Text(reading.problem, style="bold red"), "", "")
            continue
        info = next((dict(labels) for (name, labels) in reading.samples if name == "moderation_build_info"), {})
        alone = Frame([before for before in frame.before if before.url == reading.url], [reading])
        late = alone.quantile(0.99, "moderation_loop_lag_seconds")
        table.add_row(reading.url, info.get("role", "?"), info.get("version", "?"), _seconds(late))
    return table


def _keeping_up(frame: Frame) -> Table:
    age = frame.highest("moderation_worker_lag_seconds")
    table = _table("worker", "", "now", "", "")
    table.add_row(
        "lag",
        _count(frame.total("moderation_worker_lag_records")),
        Text(f"oldest {_seconds(age)}", style="red" if age > 60 else ""),
        f"on {frame.total('moderation_worker_partitions'):.0f} partitions",
    )
    table.add_row(
        "posts/s",
        _rate(frame.rate("moderation_verdict_origins_total")),
        f"{_count(frame.total('moderation_worker_in_flight_posts'))} under way",
        f"{frame.total('moderation_worker_in_flight_bytes') / (1 << 20):.1f} MiB",
    )
    table.add_row(
        "batches/s",
        _rate(frame.rate("moderation_step_seconds_count")),
        f"{_share(frame.mean('moderation_batch_fill_ratio'))} full",
        f"{_number(frame.mean('moderation_batch_posts'))} posts, "
        f"{_number(frame.mean('moderation_batch_tokens'))} tokens",
    )
    table.add_row(
        "step",
        _seconds(frame.quantile(0.5, "moderation_step_seconds")),
        f"p95 {_seconds(frame.quantile(0.95, 'moderation_step_seconds'))}",
        f"{_count(frame.total('moderation_batch_queue_posts'))} wait",
    )
    table.add_row(
        "commit",
        _seconds(frame.quantile(0.5, "moderation_transaction_seconds")),
        f"p95 {_seconds(frame.quantile(0.95, 'moderation_transaction_seconds'))}",
        f"{_number(frame.mean('moderation_transaction_posts'))} posts each",
    )
    if total := frame.total("moderation_gpu_memory_total_bytes"):
        reserved = frame.total("moderation_gpu_memory_reserved_bytes")
        used = frame.total("moderation_gpu_memory_allocated_bytes")
        sizes = [f"{size / (1 << 30):.1f} GiB" for size in (used, reserved, total)]
        table.add_row("GPU memory", sizes[0], f"{sizes[1]} reserved", f"of {sizes[2]}")
    return table


def _phases(frame: Frame) -> Table:
    table = _table("", "phase", *phases.MEASURED)
    for name, share in (("p50", 0.5), ("p95", 0.95)):
        cells = [_seconds(frame.quantile(share, "moderation_phase_seconds", phase=phase)) for phase in phases.MEASURED]
        table.add_row(name, *cells)
    return table


def _model_server(frame: Frame) -> Table:
    requests, seconds = "moderation_model_requests_total", "moderation_model_request_seconds"
    causes = [cause for cause in frame.labels(OUTAGE, "cause") if frame.total(OUTAGE, cause=cause)]
    judged = frame.rate("moderation_verdict_origins_total", origin=Origin.MODEL.name.lower())
    answered, cost = frame.rate(requests, result="answered"), frame.rate("moderation_model_cost_total")
    table = _table("", "request/s", "failed/s", "p50", "p95", "tokens in/s", "out/s", "cost/h", "1,000 posts")
    then = "on_error counts" if frame.total(GIVEN_UP) else "posts wait"
    table.title = Text.assemble("model server", (f"  AWAY: {', '.join(causes)}; {then}" if causes else "", "bold red"))
    table.add_row(
        _rate(answered),
        _rate(frame.rate(requests) - answered),
        _seconds(frame.quantile(0.5, seconds)),
        _seconds(frame.quantile(0.95, seconds)),
        _rate(frame.rate("moderation_model_tokens_total", kind="input")),
        _rate(frame.rate("moderation_model_tokens_total", kind="output")),
        f"{3600 * cost:,.2f}",
        f"{1000 * cost / judged:,.2f}" if judged else "-",
    )
    return table


def _outcomes(frame: Frame) -> Table:
    name = "moderation_verdicts_total"
    table = _table("verdicts", "", "allow", "review", "remove", "final", "degraded", "undetermined", "from cache")
    columns = [{"outcome": outcome} for outcome in OUTCOMES]
    columns += [{"status": status} for status in ("final", "degraded", "undetermined")]
    cached = {"origin": Origin.CACHE.name.lower()}
    rates = [_rate(frame.rate(name, **labels)) for labels in columns]
    table.add_row("per second", *rates, _rate(frame.rate("moderation_verdict_origins_total", **cached)))
    counts = [_count(frame.total(name, **labels)) for labels in columns]
    table.add_row("since start", *counts, _count(frame.total("moderation_verdict_origins_total", **cached)))
    return table


def _policies(frame: Frame) -> Table:
    name = "moderation_findings_total"
    table = _table("findings since start", "policy", "allow", "review", "remove", "undetermined", "flagged/s")
    for policy in frame.labels(name, "policy"):
        counts = [_count(frame.total(name, policy=policy, outcome=outcome)) for outcome in OUTCOMES]
        flagged = sum(frame.rate(name, policy=policy, outcome=outcome) for outcome in ("review", "remove"))
        unscored = frame.total("moderation_findings_undetermined_total", policy=policy)
        table.add_row(policy, *counts, _count(unscored), _rate(flagged))
    return table


def _dead_letters(frame: Frame) -> Table:
    name = "moderation_dead_letters_total"
    table = _table("dead letters", "reason", "since start", "per second")
    for reason in frame.labels(name, "reason"):
        table.add_row(reason, _count(frame.total(name, reason=reason)), _rate(frame.rate(name, reason=reason)))
    return table


def _api(frame: Frame) -> Table:
    lag, stalled = frame.highest("moderation_view_lag_records"), frame.highest("moderation_view_stalled")
    title = Text.assemble(
        "api  ",
        (f"view {_count(lag)} behind, {_seconds(frame.highest('moderation_view_lag_seconds'))}", "not bold"),
        (", STALLED" if stalled else "", "bold red"),
        (f", {_count(frame.total('moderation_api_pending_posts'))} posts pending", "not bold"),
        (f", {_count(frame.total('moderation_api_watches'))} watches", "not bold"),
    )
    table = _table("", "call", "per second", "not OK/s", "p50", "p99", "since start")
    table.title = title
    calls, seconds = "moderation_api_calls_total", "moderation_api_call_seconds"
    for method in frame.labels(calls, "method"):
        if count := frame.total(calls, method=method):
            rate = frame.rate(calls, method=method)
            table.add_row(
                method,
                _rate(rate),
                _rate(rate - frame.rate(calls, method=method, code="OK")),
                _seconds(frame.quantile(0.5, seconds, method=method)),
                _seconds(frame.quantile(0.99, seconds, method=method)),
                _count(count),
            )
    return table


def _count(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.0f}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:,.1f}"


def _rate(value: float) -> str:
    return f"{value:,.1f}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0%}"


def _seconds(value: float) -> str:
    if math.isnan(value):
        return "-"
    if value >= 120:
        return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
    if value >= 1:
        return f"{value:.1f} s"
    return f"{value * 1000:.1f} ms" if 0 < value < 0.01 else f"{value * 1000:.0f} ms"
