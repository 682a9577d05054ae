"""The scenarios, by name."""

from __future__ import annotations

from moderation.errors import DeviceError
from tests.chaos import proxy
from tests.chaos.faults import (
    IN_A_TRANSACTION,
    IN_THE_GROUP,
    LOST,
    REFUSED,
    SLOW_FENCE_S,
    all_brokers_down,
    broker_killed,
    corrupt_fetches,
    cuts,
    dying,
    group_requests,
    kills,
    kills_and_stops,
    late_end_txn,
    loading,
    lost_replies,
    lost_requests,
    misfits,
    nothing,
    refusals,
    repeats,
    rolling_deploy,
    slow_device,
    stops,
    storm,
    strikes,
    swallowed,
    throttled,
    wake_at_work,
    wake_before_the_fence,
    wake_stopped,
)
from tests.chaos.harness import REBALANCE_S
from tests.chaos.scenario import Scenario
from tests.chaos.worker import AFTER_MODEL, COMMIT_STEPS, IN_MODEL

LARGE = {"posts": {"max.message.bytes": str(4 << 20)}, "letters": {"max.message.bytes": str(256 << 10)}}
SLOW_STEPS = "fake?nonce=1&step_ms=120"
POISON = "fake?nonce=1&step_ms=10&raise_on=poison"

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("0", "none", nothing, posts=400),
        Scenario(
            "1",
            "kill -9 at each commit step",
            nothing,
            plans=dying(*COMMIT_STEPS),
            must=[f"{step} struck" for step in COMMIT_STEPS],
        ),
        Scenario("1r", "kill -9 at random", kills, posts=900, must=["SIGKILL"]),
        Scenario("2", "SIGSTOP past the session, then CONT", stops, posts=1500, must=["SIGSTOP"]),
        Scenario(
            "2s",
            "SIGSTOP at a commit step past the session, then CONT",
            wake_stopped,
            posts=1500,
            plans=[[{"stop": IN_MODEL, "pass": 8}], [{"stop": "after_send", "pass": 5}], []],
            must=[f"{IN_MODEL} struck", "after_send struck"],
        ),
        Scenario(
            "2z",
            "a worker that was declared dead wakes before its successor has fenced it",
            wake_before_the_fence,
            posts=1500,
            model=SLOW_STEPS,
            plans=[[{"stop": AFTER_MODEL}]],
            must=["SIGUSR1", f"{AFTER_MODEL} struck"],
            every_life={"slow_fence": SLOW_FENCE_S},
        ),
        Scenario(
            "2w",
            "a worker that was declared dead wakes when its successor is at work",
            wake_at_work,
            posts=1500,
            model=SLOW_STEPS,
            plans=[[{"stop": AFTER_MODEL}]],
            must=["SIGUSR1", f"{AFTER_MODEL} struck"],
        ),
        Scenario("1+2", "kill -9 and SIGSTOP", kills_and_stops, posts=1500, must=["SIGKILL", "SIGSTOP"]),
        Scenario(
            "3",
            "replies of a transaction lost",
            lost_replies,
            posts=900,
            must=strikes(IN_A_TRANSACTION, proxy.LOSE_REPLY),
        ),
        Scenario(
            "3q",
            "requests of a transaction lost, delayed",
            lost_requests,
            posts=900,
            must=strikes(IN_A_TRANSACTION, *LOST),
        ),
        Scenario(
            "3g",
            "requests and replies of the group lost, delayed",
            group_requests,
            posts=1500,
            rate=60,
            must=strikes(IN_THE_GROUP, *LOST, proxy.LOSE_REPLY),
            keeps=True,
        ),
        Scenario("3c", "all connections cut", cuts, posts=900, must=["all connections cut"]),
        Scenario(
            "3s",
            "EndTxn, Produce swallowed",
            swallowed,
            posts=1200,
            must=strikes(("EndTxn", "Produce"), proxy.SWALLOW),
            keeps=True,
        ),
        Scenario("4", "late EndTxn", late_end_txn, posts=1200, must=strikes(["EndTxn"], proxy.LATE)),
        Scenario("6", "join and leave storm", storm, posts=1200, must=["join"]),
        Scenario("6d", "rolling deploy", rolling_deploy, posts=1200, must=["deployed"]),
        Scenario(
            "7",
            "a step longer than session, rebalance, poll interval",
            slow_device,
            posts=12,
            rate=6,
            workers=2,
            model=f"fake?nonce=1&step_ms={int((REBALANCE_S + 1) * 1000)}",
            settings={"MODERATION_WORKER__BATCH_TOKENS": "64"},
            every_life={"max_poll_interval_ms": 5000},
            patience=240,
            must=["worker started"],
        ),
        Scenario(
            "8",
            "out of memory; a sick device",
            nothing,
            posts=600,
            model=POISON + "&oom_above=3",
            plans=[[{"sick": 10}, {"sick": 5}], [{"sick": 15}], []],
            misfits=[misfit for misfit in misfits(4) if misfit[4] == "MODEL_FAILED"],
            exits=frozenset({DeviceError.exit_code}),
            must=[f"{IN_MODEL} struck"],
        ),
        Scenario(
            "9",
            "posts that cannot be read or judged, duplicates, edits; kill -9",
            kills,
            posts=700,
            model=POISON + "&oom_above=3",
            misfits=[*misfits(), *repeats()],
            must=["SIGKILL"],
            topic_settings=LARGE,
        ),
        Scenario("9c", "fetched batches corrupt", corrupt_fetches, posts=900, must=strikes(["Fetch"], proxy.CORRUPT)),
        Scenario(
            "10", "upstream duplicates and edits; kill -9", kills, posts=1200, misfits=repeats(50), must=["SIGKILL"]
        ),
        # exit 2: a producer that is refused for good while it starts looks like a wrong setting to the worker
        Scenario(
            "14",
            "transaction errors of every kind",
            refusals,
            posts=1000,
            exits=frozenset({2}),
            must=[*strikes(REFUSED, proxy.REFUSE), *strikes(["EndTxn"], proxy.LIE)],
            keeps=True,
        ),
        Scenario(
            "14o",
            "a coordinator that does not know of offsets yet",
            loading,
            posts=900,
            must=[*strikes(["OffsetFetch"], proxy.REFUSE), "SIGTERM"],
        ),
        Scenario(
            "19",
            "clock jumps an hour on, another back; the loop stalls",
            nothing,
            posts=1500,
            plans=[
                [{"clock": 3600, "step": "before_begin", "pass": 4}],
                [{"clock": -3600, "step": "before_begin", "pass": 4}],
                [{"stall": "before_begin", "pass": 6, "seconds": 15}],
            ],
            must=["before_begin struck"],
        ),
        Scenario(
            "20",
            "throttled: stopped for 0.15 s of every 0.5 s",
            throttled,
            posts=40_000,
            rate=3000,
            workers=1,
            model="fake?nonce=1",
            settings={"MODERATION_WORKER__BATCH_TOKENS": "8192"},
            patience=180,
            must=["SIGSTOP"],
        ),
        Scenario(
            "20q",
            "none, at the highest rate",
            nothing,
            posts=40_000,
            rate=3000,
            workers=1,
            model="fake?nonce=1",
            settings={"MODERATION_WORKER__BATCH_TOKENS": "8192"},
            patience=180,
        ),
    )
}

BROKERS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "5",
            "each of three brokers killed and revived",
            broker_killed,
            posts=3000,
            rate=80,
            patience=150,
            must=["broker killed"],
        ),
        Scenario(
            "5a",
            "all brokers down for a minute",
            all_brokers_down,
            posts=1500,
            patience=240,
            falls=True,
            must=["broker killed"],
        ),
    )
}
