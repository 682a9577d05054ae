"""The page: what is wrong, then the tables of each role."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moderation.cli.top import troubles
from moderation.cli.top.cells import count, number, rate, seconds, share, size
from moderation.cli.top.sums import Frame
from moderation.observability import phases
from moderation.types import Origin

OUTCOMES = ("allow", "review", "remove")
OUTAGE = "moderation_model_outage"
GIVEN_UP = "moderation_model_outage_given_up"


def page(frame: Frame) -> RenderableType:
    """The whole page."""
    parts: list[RenderableType] = [_wrong(troubles.found(frame)), _endpoints(frame)]
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


def _wrong(lines: Sequence[str]) -> Text:
    if not lines:
        return Text("nothing is wrong", style="green")
    return Text("\n").join(Text(f"WRONG  {line}", style="bold red") for line in lines)


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
        info = reading.info
        alone = Frame([before for before in frame.before if before.url == reading.url], [reading])
        late = alone.quantile(0.99, "moderation_loop_lag_seconds")
        table.add_row(reading.url, info.get("role", "?"), info.get("version", "?"), seconds(late))
    return table


def _keeping_up(frame: Frame) -> Table:
    age = frame.highest("moderation_worker_lag_seconds")
    table = _table("worker", "", "now", "", "")
    table.add_row(
        "lag",
        count(_waiting(frame, "lag_records")),
        Text(f"oldest {seconds(age)}", style="red" if age > 60 else ""),
        f"on {frame.total('moderation_worker_partitions'):.0f} partitions",
    )
    if unstable := _waiting(frame, "unstable_records"):
        table.add_row("unreadable", count(unstable), "open transaction", "")
    table.add_row(
        "posts/s",
        rate(frame.rate("moderation_verdict_origins_total")),
        f"{count(frame.total('moderation_worker_in_flight_posts'))} under way",
        f"{frame.total('moderation_worker_in_flight_bytes') / (1 << 20):.1f} MiB",
    )
    table.add_row(
        "batches/s",
        rate(frame.rate("moderation_step_seconds_count")),
        f"{share(frame.mean('moderation_batch_fill_ratio'))} full",
        f"{number(frame.mean('moderation_batch_posts'))} posts, {number(frame.mean('moderation_batch_tokens'))} tokens",
    )
    table.add_row(
        "step",
        seconds(frame.quantile(0.5, "moderation_step_seconds")),
        f"p95 {seconds(frame.quantile(0.95, 'moderation_step_seconds'))}",
        f"{count(frame.total('moderation_batch_queue_posts'))} wait",
    )
    table.add_row(
        "commit",
        seconds(frame.quantile(0.5, "moderation_transaction_seconds")),
        f"p95 {seconds(frame.quantile(0.95, 'moderation_transaction_seconds'))}",
        f"{number(frame.mean('moderation_transaction_posts'))} posts each",
    )
    if total := frame.total("moderation_gpu_memory_total_bytes"):
        reserved = frame.total("moderation_gpu_memory_reserved_bytes")
        used = frame.total("moderation_gpu_memory_allocated_bytes")
        table.add_row("GPU memory", size(used), f"{size(reserved)} reserved", f"of {size(total)}")
    return table


def _waiting(frame: Frame, name: str) -> float:
    """Records of all partitions; NaN if those of a partition are not known."""
    return sum(frame.by_label(f"moderation_worker_{name}", "partition").values())


def _phases(frame: Frame) -> Table:
    table = _table("", "phase", *phases.MEASURED)
    for name, part in (("p50", 0.5), ("p95", 0.95)):
        cells = [seconds(frame.quantile(part, "moderation_phase_seconds", phase=phase)) for phase in phases.MEASURED]
        table.add_row(name, *cells)
    return table


def _model_server(frame: Frame) -> Table:
    requests, duration = "moderation_model_requests_total", "moderation_model_request_seconds"
    causes = [cause for cause in frame.labels(OUTAGE, "cause") if frame.total(OUTAGE, cause=cause)]
    judged = frame.rate("moderation_verdict_origins_total", origin=Origin.MODEL.name.lower())
    answered, cost = frame.rate(requests, result="answered"), frame.rate("moderation_model_cost_total")
    table = _table("", "request/s", "failed/s", "p50", "p95", "tokens in/s", "out/s", "cost/h", "1,000 posts")
    then = "on_error counts" if frame.total(GIVEN_UP) else "posts wait"
    table.title = Text.assemble("model server", (f"  AWAY: {', '.join(causes)}; {then}" if causes else "", "bold red"))
    table.add_row(
        rate(answered),
        rate(frame.rate(requests) - answered),
        seconds(frame.quantile(0.5, duration)),
        seconds(frame.quantile(0.95, duration)),
        rate(frame.rate("moderation_model_tokens_total", kind="input")),
        rate(frame.rate("moderation_model_tokens_total", kind="output")),
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
    rates = [rate(frame.rate(name, **labels)) for labels in columns]
    table.add_row("per second", *rates, rate(frame.rate("moderation_verdict_origins_total", **cached)))
    counts = [count(frame.total(name, **labels)) for labels in columns]
    table.add_row("since start", *counts, count(frame.total("moderation_verdict_origins_total", **cached)))
    return table


def _policies(frame: Frame) -> Table:
    name = "moderation_findings_total"
    table = _table("findings since start", "policy", "allow", "review", "remove", "undetermined", "flagged/s")
    for policy in frame.labels(name, "policy"):
        unscored = frame.total("moderation_findings_undetermined_total", policy=policy)
        for mode in ("live", "shadow"):
            found = {"policy": policy, "mode": mode}
            if not frame.total(name, **found):
                continue
            counts = [count(frame.total(name, **found, outcome=outcome)) for outcome in OUTCOMES]
            flagged = sum(frame.rate(name, **found, outcome=outcome) for outcome in ("review", "remove"))
            table.add_row(policy if mode == "live" else f"{policy} (shadow)", *counts, count(unscored), rate(flagged))
    return table


def _dead_letters(frame: Frame) -> Table:
    name = "moderation_dead_letters_total"
    table = _table("dead letters", "reason", "since start", "per second")
    for reason in frame.labels(name, "reason"):
        table.add_row(reason, count(frame.total(name, reason=reason)), rate(frame.rate(name, reason=reason)))
    return table


def _api(frame: Frame) -> Table:
    lag, stalled = frame.highest("moderation_view_lag_records"), frame.highest("moderation_view_stalled")
    title = Text.assemble(
        "api  ",
        (f"view {count(lag)} behind, {seconds(frame.highest('moderation_view_lag_seconds'))}", "not bold"),
        (", STALLED" if stalled else "", "bold red"),
        (f", {count(frame.total('moderation_api_pending_posts'))} posts pending", "not bold"),
        (f", {count(frame.total('moderation_api_watches'))} watches", "not bold"),
    )
    table = _table("", "call", "per second", "not OK/s", "p50", "p99", "since start")
    table.title = title
    calls, duration = "moderation_api_calls_total", "moderation_api_call_seconds"
    for method in frame.labels(calls, "method"):
        if total := frame.total(calls, method=method):
            each = frame.rate(calls, method=method)
            table.add_row(
                method,
                rate(each),
                rate(each - frame.rate(calls, method=method, code="OK")),
                seconds(frame.quantile(0.5, duration, method=method)),
                seconds(frame.quantile(0.99, duration, method=method)),
                count(total),
            )
    return table
