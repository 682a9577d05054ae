"""`moderation top` says first what is wrong, with the culprit, from the thresholds of the alerts."""

from __future__ import annotations

import io
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from rich.console import Console

from moderation.cli import top
from moderation.cli.top import troubles
from moderation.cli.top.limits import DEAD_LETTERS, LIMITS, NO_SCORE, OPEN_TRANSACTION_S, UNDETERMINED
from moderation.cli.top.page import page
from moderation.cli.top.reading import Reading, parse
from moderation.cli.top.sums import Frame
from tests.support.repository import REPO

NOW = 1_900_000_000.0
WORKER, API = (f'moderation_build_info{{role="{role}",version="1"}} 1\n' for role in ("worker", "api"))
WELL = (
    WORKER
    + """moderation_ready 1
moderation_kafka_answer_age_seconds 1
moderation_worker_lag_records{partition="0"} 40
moderation_worker_unstable_records{partition="0"} 0
moderation_worker_lag_seconds{partition="0"} 20
moderation_worker_standstill_seconds{partition="0"} 1
moderation_worker_oldest_post_seconds{partition="0"} 2
moderation_clock_skew_seconds{clock="worker"} 0.2
moderation_clock_skew_seconds{clock="producers"} -1
moderation_memory_bytes 8e8
moderation_memory_limit_bytes 1e9
moderation_records_lost_total{topic="posts",partition="1",cause="retention"} 0
moderation_group_foreign_members 0
moderation_policies_info{digest="d"} 1
moderation_policy_certificate_info{policy="a",mode="live",required="yes",standing="VALID"} 1
moderation_policy_certificate_info{policy="b",mode="live",required="no",standing="CERTIFICATE_EXPIRED"} 1
moderation_policy_certificate_info{policy="c",mode="shadow",required="yes",standing="CERTIFICATE_MISSING"} 1
moderation_policy_certificate_expiry_timestamp_seconds{policy="a",mode="live"} 1.91e9
moderation_policy_certificate_expiry_timestamp_seconds{policy="b",mode="live"} 1.8e9
moderation_policy_certificate_expiry_timestamp_seconds{policy="c",mode="shadow"} 1.9000001e9
""",
    API
    + """moderation_ready 1
moderation_kafka_answer_age_seconds 0.4
moderation_view_lag_records 3
moderation_view_unstable_records 2
moderation_view_lag_seconds 0.5
moderation_view_standstill_seconds 0.2
moderation_view_stalled 0
moderation_view_topic_end_age_seconds 0.5
moderation_api_certificate_expiry_timestamp_seconds 1.91e9
moderation_policies_info{digest="d"} 1
""",
)


def a_reading(text: str, host: str = "w") -> Reading:
    return Reading(f"http://{host}:9464/metrics", 0.0, parse(text))


def found(*texts: str) -> list[str]:
    """Of endpoints w1, w2 and so on."""
    readings = [a_reading(text, f"w{number}") for number, text in enumerate(texts, 1)]
    return troubles.found(Frame((), readings), NOW)


def standing(partition: int, seconds: float, records: float = 868, unstable: float = 0) -> str:
    return "".join(
        f'moderation_worker_{name}{{partition="{partition}"}} {value}\n'
        for name, value in (
            ("lag_records", records),
            ("unstable_records", unstable),
            ("lag_seconds", seconds),
            ("standstill_seconds", seconds),
        )
    )


SITUATIONS = [
    ("", "moderation_ready 0", "w1:9464 is not ready"),
    (WORKER, "moderation_ready 0", "worker w1:9464 is not ready"),
    (
        WORKER,
        "moderation_kafka_answer_age_seconds 75\n" + 'moderation_worker_lag_records{partition="0"} NaN',
        "Kafka is away: no broker has answered worker w1:9464 for 75.0 s",
    ),
    (API, "moderation_kafka_answer_age_seconds 900", "Kafka is away: no broker has answered api w1:9464 for 15 min"),
    (
        WORKER,
        standing(3, 840, unstable=868),
        "partition 3 stands still for 14 min without a commit: 868 records wait, 868 of them behind an open transac",
    ),
    (
        WORKER,
        standing(3, 360, unstable=5),
        "partition 3 stands still for 6 min without a commit: 868 records wait, 5 of them behind an open transaction",
    ),
    (
        WORKER,
        "".join(standing(number, 700 + number, 1) for number in range(12)),
        "partitions 0, 1, 2, 3, 4 and 7 more stand still for up to 12 min without a commit: 12 records wait",
    ),
    (WORKER, standing(3, 840, float("nan")), "partition 3 stands still for 14 min without a commit: an unknown number"),
    (WORKER, 'moderation_worker_lag_seconds{partition="4"} 720', "partition 4 is behind by 12 min"),
    (
        WORKER,
        "moderation_ready 1\nmoderation_worker_partitions 0",
        "no partition of the posts topic is assigned to worker w1:9464",
    ),
    (WORKER, 'moderation_worker_lag_records{partition="4"} NaN', "the lag of partition 4 is unknown"),
    (
        WORKER,
        'moderation_worker_oldest_post_seconds{partition="4"} 360',
        "a post makes no progress: partition 4 has had it in hand for 6 min",
    ),
    (
        WORKER,
        'moderation_model_outage{cause="quota"} 1\nmoderation_worker_oldest_post_seconds{partition="4"} 360',
        "the model server gives no answers (quota): posts wait",
    ),
    (
        WORKER,
        "moderation_group_foreign_members 2",
        "2 members of the workers' group are no workers, and nobody judges what they hold: see `group_shared`",
    ),
    (
        WORKER,
        "moderation_group_foreign_members 1",
        "1 member of the workers' group is no worker, and nobody judges what it holds: see `group_shared`",
    ),
    (
        WORKER,
        'moderation_records_lost_total{topic="posts",partition="2",cause="retention"} 12\n'
        f'moderation_records_lost_timestamp_seconds{{topic="posts",partition="2"}} {NOW - 300}',
        "lost 5 min ago: 12 records of partition 2 of the posts topic (retention)",
    ),
    (
        WORKER,
        'moderation_clock_skew_seconds{clock="worker"} 3600',
        "the clock of worker w1:9464 is 60 min ahead of the",
    ),
    (WORKER, 'moderation_clock_skew_seconds{clock="producers"} -3000', "the clock of a producer is 50 min behind the"),
    (
        WORKER,
        "moderation_memory_bytes 4e9\nmoderation_memory_limit_bytes 4.2e9",
        "worker w1:9464 uses 3.7 GiB of memory, near its limit of 3.9 GiB",
    ),
    (WORKER, "moderation_loop_tick_age_seconds 30", "the event loop of worker w1:9464 has stood still for 30.0 s"),
    (WORKER, "moderation_log_lines_waiting 1500", "1,500 log lines of worker w1:9464 wait to be written"),
    (
        API,
        "moderation_view_stalled 1\nmoderation_view_lag_records 50\nmoderation_view_lag_seconds 400",
        "the view of w1:9464 is stalled: its store takes no writes, 50 records are not in it",
    ),
    (
        API,
        "moderation_view_topic_end_age_seconds 80\nmoderation_view_lag_records NaN",
        "the view of w1:9464 does not know how far it is behind: where the topic ends is unknown for 80.0 s",
    ),
    (
        API,
        "moderation_view_lag_records 5\nmoderation_view_unstable_records 5\nmoderation_view_lag_seconds 40",
        "the view of w1:9464 is 40.0 s behind: 5 records are not in it, 5 of them behind an open transaction",
    ),
    (
        API,
        "moderation_view_lag_records 5\nmoderation_view_standstill_seconds 420\nmoderation_view_lag_seconds 420",
        "the view of w1:9464 stands still for 7 min: 5 records are not in it",
    ),
    (
        API,
        "moderation_view_lag_records 5\nmoderation_view_lag_seconds 40",
        "the view of w1:9464 is 40.0 s behind: 5 records are not in it",
    ),
    (
        API,
        f"moderation_api_certificate_expiry_timestamp_seconds {NOW + 5 * 86_400}",
        "the certificate of api w1:9464 expires in 5 days",
    ),
    (
        API,
        f"moderation_api_certificate_expiry_timestamp_seconds {NOW - 7200}",
        "the certificate of api w1:9464 has expired 2.0 h ago",
    ),
    (
        WORKER,
        'moderation_policy_certificate_info{policy="spam",mode="live",required="yes",standing="CERTIFICATE_EXPIRED"} 1',
        "policy spam removes nothing: it requires a certificate, and none holds (CERTIFICATE_EXPIRED)",
    ),
    (
        WORKER,
        f'moderation_policy_certificate_expiry_timestamp_seconds{{policy="spam",mode="live"}} {NOW + 5 * 86_400}',
        "the certificate of policy spam expires in 5 days",
    ),
    (API, "moderation_jwt_keys_age_seconds 1900", "api w1:9464 last read the signing keys of bearer tokens 32 min ago"),
    (
        WORKER,
        'moderation_policies_info{digest="a"} 1\nmoderation_policies_info{digest="b"} 1',
        "2 policy sets are in use at once",
    ),
]


@pytest.mark.parametrize(("role", "text", "line"), SITUATIONS)
def test_each_situation_is_one_line_that_names_the_culprit(role: str, text: str, line: str) -> None:
    (said,) = found(role + text + "\n")
    assert said.startswith(line)


def test_nothing_is_wrong_where_all_is_well_and_where_an_older_version_says_less() -> None:
    assert found(*WELL) == []
    assert found(WORKER, API) == []


def test_a_spare_worker_is_nothing_wrong_nor_is_a_moment_without_partitions() -> None:
    spare, busy = (f"{WORKER}moderation_ready 1\nmoderation_worker_partitions {number}\n" for number in (0, 6))
    assert found(spare, busy) == []
    assert found(spare, WORKER + "moderation_ready 0\n")[-1].endswith("assigned to worker w1:9464")
    assert troubles.found(Frame([a_reading(busy)], [a_reading(spare)]), NOW) == []
    (line,) = found(spare, spare)
    assert line == "no partition of the posts topic is assigned to workers w1:9464, w2:9464"


def test_a_loss_of_long_ago_is_history() -> None:
    lost = 'moderation_records_lost_total{topic="verdicts",partition="2",cause="retention"} 1\n'
    at = 'moderation_records_lost_timestamp_seconds{topic="verdicts",partition="2"} '
    apis = [API + lost + f"{at}{NOW - 60}\n"] * 2
    assert found(*apis) == ["lost 60.0 s ago: 1 record of partition 2 of the verdicts topic (retention)"]
    assert found(API + lost + f"{at}{NOW - 90_000}\n") == []


def test_of_two_workers_that_show_a_partition_the_one_that_knows_more_counts() -> None:
    unknown = 'moderation_worker_lag_records{partition="3"} NaN\nmoderation_worker_lag_seconds{partition="3"} NaN\n'
    assert found(WORKER + unknown, WORKER + standing(3, 5)) == []
    (line,) = found(WORKER + unknown, WORKER + standing(3, 840))
    assert line.startswith("partition 3 stands still for 14 min without a commit: 868 records wait")


def test_what_is_wrong_comes_first_on_the_page_and_in_red() -> None:
    def printed(*texts: str, color: bool = False) -> str:
        console = Console(
            width=160, file=io.StringIO(), force_terminal=color or None, color_system="standard" if color else None
        )
        with console.capture() as captured:
            console.print(page(Frame((), [a_reading(text) for text in texts])))
        return captured.get()

    assert printed(*WELL).startswith("nothing is wrong\n")
    wrong = WORKER + standing(3, 840, unstable=868)
    assert printed(wrong).startswith("WRONG  partition 3 stands still for 14 min")
    assert printed(wrong, color=True).startswith("\x1b[1;31mWRONG")
    lag, unreadable = (
        next(line for line in printed(wrong).splitlines() if line.startswith(name)).split()
        for name in ("lag", "unreadable")
    )
    assert (lag[1], unreadable[1]) == ("868", "868")
    unknown = WORKER + 'moderation_worker_lag_records{partition="3"} NaN\n'
    assert next(line for line in printed(unknown).splitlines() if line.startswith("lag")).split()[1] == "-"


def test_a_role_that_does_not_answer_comes_before_all_else() -> None:
    gone = Reading("http://gone:9464/metrics", 0.0, problem="Connection refused")
    said = troubles.found(Frame((), [a_reading(WORKER + standing(3, 840)), gone]), NOW)
    assert said[0] == "gone:9464 does not answer: Connection refused"
    assert len(said) == 2


def test_the_thresholds_are_those_of_the_alerts() -> None:
    """Where an alert compares a metric with a number, so does the page."""
    groups = yaml.safe_load((REPO / "deploy/observe/rules.yaml").read_text())["groups"]
    expressions = [rule["expr"] for group in groups for rule in group["rules"]]
    compared = set()
    for name, limit in (*LIMITS.items(), ("moderation_worker_standstill_seconds", OPEN_TRANSACTION_S)):
        numbers = [
            math.prod(float(factor) for factor in number.split("*"))
            for expression in expressions
            for number in re.findall(rf"\b{name}\b[^<>]*[<>]=?\s*([0-9.]+(?:\s*\*\s*[0-9.]+)*)", expression)
        ]
        assert not numbers or limit in numbers, f"{name}: {limit:g} here, {numbers} in the alerts"
        compared |= {name} if numbers else set()
    assert LIMITS.keys() - compared == {"moderation_records_lost_timestamp_seconds"}, "an alert compares it with a time"


@pytest.mark.parametrize(("ready", "code"), [(1, 0), (0, 1)])
def test_once_ends_with_1_if_something_is_wrong(ready: int, code: int, metrics_at: Callable[[str], str]) -> None:
    endpoint = metrics_at(WORKER + f"moderation_ready {ready}\n")
    if not code:
        top.top([endpoint], interval=0.1, once=True)
        return
    with pytest.raises(SystemExit) as ended:
        top.top([endpoint], interval=0.1, once=True)
    assert ended.value.code == code


@pytest.fixture
def metrics_at() -> Iterator[Callable[[str], str]]:
    """Serves a text at /metrics; returns its address."""
    with ExitStack() as stack:

        def serve(text: str) -> str:
            class Endpoint(BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(text.encode())

                def log_message(self, format: str, *arguments: object) -> None:
                    pass

            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Endpoint))
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"127.0.0.1:{server.server_port}"

        yield serve


UNREADABLE = 'moderation_dead_letters_total{reason="NOT_DECODABLE"}'
UNSCORED = 'moderation_findings_undetermined_total{policy="p",reason="%s"}'


@pytest.mark.parametrize(
    ("counter", "gain", "expected"),
    [
        (UNREADABLE, 5, ["5% of the records become dead letters (NOT_DECODABLE)"]),
        (UNREADABLE, 2, []),
        (UNSCORED % "NO_ANSWER", 20, ["policy p has no score for 20% of the posts (NO_ANSWER)"]),
        (UNSCORED % "NO_ANSWER", 4, []),
        (UNSCORED % "NO_PROBABILITY", 100, []),
    ],
)
def test_shares_between_two_readings_have_the_limits_of_their_alerts(
    counter: str, gain: int, expected: list[str]
) -> None:
    def a_moment(at: float, posts: int, value: int) -> Reading:
        counted = ('moderation_verdict_origins_total{origin="model"}', 'moderation_findings_total{policy="p"}')
        lines = [f"{name} {posts}\n" for name in counted] + [f"{counter} {value}\n"]
        return Reading("http://w:9464/metrics", at, parse(WORKER + "".join(lines)))

    before, now = a_moment(0.0, 50, 0), a_moment(2.0, 150, gain)
    assert troubles.found(Frame([before], [now]), NOW) == expected
    assert troubles.found(Frame([now], [now]), NOW) == []
    rules = (REPO / "deploy" / "observe" / "rules.yaml").read_text()
    assert f"> {DEAD_LETTERS}" in rules.partition("alert: ModerationDeadLetters")[2].partition("- alert")[0]
    undetermined = rules.partition("alert: ModerationUndetermined")[2].partition("- alert")[0]
    assert f"> {UNDETERMINED}" in undetermined
    assert all(reason in undetermined for reason in NO_SCORE)
