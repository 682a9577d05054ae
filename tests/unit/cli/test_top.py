"""`moderation top` computes as Prometheus does, and an endpoint without samples adds nothing."""

from __future__ import annotations

import io
import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

from moderation.cli import top
from moderation.cli.top.page import page
from moderation.cli.top.reading import Reading, address, parse
from moderation.cli.top.sums import Frame
from moderation.errors import ConfigError
from moderation.observability.fast_metrics import FastHistogram


def a_reading(text: str, at: float = 0.0, url: str = "http://w:9464/metrics") -> Reading:
    return Reading(url, at, parse(text))


def shown(*readings: Reading) -> str:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        console.print(page(Frame((), readings)))
    return captured.get()


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("127.0.0.1:9464", "http://127.0.0.1:9464/metrics"),
        ("0.0.0.0:9464", "http://127.0.0.1:9464/metrics"),
        ("[::]:9464", "http://[::1]:9464/metrics"),
        ("worker-0:9464", "http://worker-0:9464/metrics"),
        ("https://w.example.com/", "https://w.example.com/metrics"),
        ("http://proxy/pods/w/metrics", "http://proxy/pods/w/metrics"),
    ],
)
def test_an_endpoint_is_an_address_or_a_url(given: str, url: str) -> None:
    assert address(given) == url


@pytest.mark.parametrize("given", ["file:///etc/passwd", "w:port", "", "http://"])
def test_an_invalid_endpoint_is_named(given: str) -> None:
    with pytest.raises(ConfigError, match="neither host:port nor an http"):
        address(given)


def test_values_add_up_over_endpoints_and_rates_over_time() -> None:
    text = (
        'moderation_verdict_origins_total{{origin="model"}} {}\nmoderation_verdict_origins_total{{origin="cache"}} {}\n'
    )
    before = [a_reading(text.format(100, 0), 10.0, "a"), a_reading(text.format(500, 7), 10.0, "b")]
    now = [a_reading(text.format(110, 5), 12.0, "a"), a_reading(text.format(20, 0), 12.0, "b")]  # b was restarted
    frame = Frame(before, now)
    assert frame.total("moderation_verdict_origins_total") == 135
    assert frame.total("moderation_verdict_origins_total", origin="cache") == 5
    assert frame.rate("moderation_verdict_origins_total", origin="model") == (10 + 20) / 2
    assert frame.labels("moderation_verdict_origins_total", "origin") == ["cache", "model"]
    assert Frame((), now).rate("moderation_verdict_origins_total") == 0  # there is no earlier reading


def test_quantiles_and_means_are_taken_between_the_readings() -> None:
    registry = CollectorRegistry()
    row = FastHistogram("moderation_s", "x", (1, 2, 4), registry=registry).series()
    row.add(100.0)
    before = a_reading(generate_latest(registry).decode(), 0.0)
    for value in (0.5, 1.5, 1.5, 3.0):
        row.add(value)
    frame = Frame([before], [a_reading(generate_latest(registry).decode(), 1.0)])
    assert frame.mean("moderation_s") == pytest.approx(6.5 / 4)
    assert frame.quantile(0.25, "moderation_s") == 1.0
    assert frame.quantile(0.5, "moderation_s") == 1.5
    assert frame.quantile(1.0, "moderation_s") == 4.0
    assert math.isnan(frame.quantile(0.5, "moderation_none"))
    row.add(100.0)
    beyond = Frame([before], [a_reading(generate_latest(registry).decode(), 2.0)])
    assert beyond.quantile(1.0, "moderation_s") == 4.0  # beyond the last bound nothing more is known


def test_a_role_is_shown_by_what_it_has() -> None:
    api = 'moderation_build_info{role="api",version="1"} 1\nmoderation_view_stalled 1\n'
    printed = shown(a_reading(api))
    assert "STALLED" in printed
    assert "lag" not in printed
    worker = 'moderation_build_info{role="worker",version="1"} 1\nmoderation_worker_lag_records{partition="0"} 7\n'
    printed = shown(a_reading(worker), Reading("http://gone/metrics", 0.0, problem="Connection refused"))
    assert "Connection refused" in printed
    assert "STALLED" not in printed
    assert next(line for line in printed.splitlines() if line.startswith("lag")).split()[1] == "7"


def test_the_phases_of_a_worker_are_in_their_columns() -> None:
    info = 'moderation_build_info{role="worker",version="1"} 1\n'
    counts = ((1.0, 0), (2.0, 1), ("+Inf", 1))
    text = "".join(f'moderation_phase_seconds_bucket{{phase="decode",le="{le}"}} {n}\n' for le, n in counts)
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        console.print(page(Frame([a_reading(info)], [a_reading(info + text, 1.0)])))
    (median,) = [line.split() for line in captured.get().splitlines() if line.startswith("p50")]
    assert median == ["p50", "-", "-", "1.5", "s", "-", "-", "-", "-"]


def test_a_model_server_is_shown_with_its_cost_and_its_outage() -> None:
    worker = 'moderation_build_info{role="worker",version="1"} 1\n'
    counted = """\
moderation_model_requests_total{{result="answered"}} {0}
moderation_model_requests_total{{result="timeout"}} {1}
moderation_model_tokens_total{{kind="input"}} {2}
moderation_model_cost_total {3}
moderation_verdict_origins_total{{origin="model"}} {4}
moderation_verdict_origins_total{{origin="cache"}} {4}
moderation_model_outage{{cause="overloaded"}} {5}
moderation_model_outage{{cause="quota"}} 0
moderation_model_outage_given_up 0
"""
    before, now = worker + counted.format(100, 0, 0, 1, 10, 0), worker + counted.format(140, 20, 6000, 1.5, 35, 1)
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        console.print(page(Frame([a_reading(before)], [a_reading(now, 10.0)])))
    lines = captured.get().splitlines()
    title = next(index for index, line in enumerate(lines) if line.startswith("model server"))
    assert lines[title].strip() == "model server  AWAY: overloaded; posts wait"
    given_up = now.replace("given_up 0", "given_up 1")
    assert "AWAY: overloaded; on_error counts" in shown(a_reading(given_up))
    assert lines[title + 2].split() == ["4.0", "2.0", "-", "-", "600.0", "0.0", "180.00", "20.00"]
    assert "model server" not in shown(a_reading(worker))


def test_once_reports_an_endpoint_that_cannot_be_read() -> None:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        assert not top.render(["http://127.0.0.1:1/metrics"], console, interval=0.1, once=True)
    assert "Connection refused" in captured.get()
    with pytest.raises(SystemExit) as ended:
        top.top(["127.0.0.1:1"], interval=0.1, once=True)
    assert ended.value.code == 1


def test_without_a_terminal_one_page_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        top.top(["127.0.0.1:1"], interval=0.1)
    assert ended.value.code == 1
    assert "http://127.0.0.1:1/metrics  Connection refused" in capsys.readouterr().out


def test_in_a_file_no_column_is_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    endpoint = f"{'w' * 200}.invalid:9464"
    with pytest.raises(SystemExit):
        top.top([endpoint], interval=0.1)
    assert endpoint in capsys.readouterr().out


def test_a_lag_that_an_api_does_not_know_is_shown_as_unknown() -> None:
    known = 'moderation_build_info{version="1",role="api"} 1\nmoderation_view_lag_records 7\n'
    assert "view 7 behind" in shown(a_reading(known, url="a"))
    unknown = known.replace(" 7", " NaN")
    assert "view - behind" in shown(a_reading(known, url="a"), a_reading(unknown, url="b"))
    assert "view - behind" in shown(a_reading(unknown, url="b"), a_reading(known, url="a"))


def test_findings_in_shadow_do_not_look_like_those_that_count() -> None:
    text = """moderation_build_info{version="1",role="worker"} 1
moderation_findings_total{policy="tried",outcome="remove",mode="shadow"} 7
moderation_findings_total{policy="live",outcome="remove",mode="live"} 5
"""
    lines = shown(a_reading(text)).splitlines()
    (tried,), (live,) = ([line.split() for line in lines if line.startswith(name)] for name in ("tried", "live "))
    assert tried[:5] == ["tried", "(shadow)", "0", "0", "7"]
    assert live[:4] == ["live", "0", "0", "5"]
