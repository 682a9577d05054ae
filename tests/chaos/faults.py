"""What is done to workers, requests and brokers, and what is in the posts."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import (
    ConcurrentTransactions,
    CoordinatorLoadInProgressError,
    InvalidProducerEpoch,
    InvalidTxnState,
    NotCoordinatorForGroupError,
)

from tests.chaos import proxy
from tests.chaos.checker import ERASED
from tests.chaos.harness import SESSION_S, Run
from tests.chaos.proxy import Rule
from tests.chaos.scenario import Misfit

PAST_SESSION_S = SESSION_S + 2.0
SLOW_FENCE_S = 3.0
INSIST_S = 180.0


async def nothing(run: Run) -> None:
    """Plans in the workers do it all, or there is no fault."""
    await run.fed.wait()


# 1  a worker dies


async def kills(run: Run) -> None:
    """SIGKILL at any moment, six times."""
    await run.answered(0.02)
    for _ in range(6):
        await run.sleep(0.3, 1.5)
        run.hit(run.pick(), signal.SIGKILL)


def dying(*steps: str) -> list[list[Mapping[str, Any]]]:
    """Three workers that share these deaths, each in another of their lives."""
    shares = [steps[worker::3] for worker in range(3)]
    return [[{"kill": step, "pass": 3 + turn} for turn, step in enumerate(share)] for share in shares]


# 2  a worker returns after it was declared dead


async def stops(run: Run) -> None:
    """SIGSTOP past the session timeout, so that others take over; then it goes on where it was."""
    await run.answered(0.02)
    for _ in range(2):
        worker = run.pick()
        run.hit(worker, signal.SIGSTOP)
        await run.sleep(PAST_SESSION_S, PAST_SESSION_S + 2)
        worker.signal(signal.SIGCONT)
        await run.sleep(0.5, 1.5)


async def logged(run: Run, event: str, more_than: int = 0) -> None:
    async with asyncio.timeout(90):
        while sum(worker.count(event) for worker in run.workers) <= more_than:  # noqa: ASYNC110  a line in a file
            await asyncio.sleep(0.1)


async def wake_stopped(run: Run) -> None:
    """Those that stopped themselves at a step, after others have taken over."""
    await logged(run, "struck")
    await run.wake(after=PAST_SESSION_S)
    if sum(worker.count("struck") for worker in run.workers) > 1:
        await run.wake(after=PAST_SESSION_S)


async def settled(run: Run) -> None:
    """Until each worker has partitions, and has kept them for a second.

    A worker that is stopped while it drains gives up its posts when it wakes: that proves nothing.
    """
    changes, since = -1, time.monotonic()
    async with asyncio.timeout(90):
        while time.monotonic() - since < 1 or not all(worker.count("partition_assigned") for worker in run.workers):
            await asyncio.sleep(0.1)
            now = sum(w.count("partition_assigned") + w.count("partition_revoked") for w in run.workers)
            if now != changes:
                changes, since = now, time.monotonic()


async def stop_one(run: Run) -> None:
    await settled(run)
    run.hit(run.workers[0], signal.SIGUSR1)
    await logged(run, "struck")


async def wake_at_work(run: Run) -> None:
    """A worker that was declared dead commits when its successors have worked for a while."""
    await stop_one(run)
    await run.wake(after=PAST_SESSION_S)


async def wake_before_the_fence(run: Run) -> None:
    """A worker that was declared dead commits when its successor owns the partition, and has not fenced it yet."""
    await stop_one(run)
    await logged(run, "fencing", more_than=sum(worker.count("fencing") for worker in run.workers))
    await run.wake(after=SLOW_FENCE_S / 3)


async def kills_and_stops(run: Run) -> None:
    await asyncio.gather(kills(run), stops(run))


# 20  a worker that gets less CPU than it wants

THROTTLED_S, PERIOD_S = 0.15, 0.5  # stopped for so long, so often: a CPU limit of 70 % of a core does as much


async def throttled(run: Run) -> None:
    """Stops and continues all workers, again and again, until each post has its verdict or time is up."""
    patience = time.monotonic() + run.scenario.posts / run.scenario.rate + run.scenario.patience
    while time.monotonic() < patience and sum(run.committed.values()) < run.scenario.posts:
        for number, seconds in ((signal.SIGSTOP, THROTTLED_S), (signal.SIGCONT, PERIOD_S - THROTTLED_S)):
            for worker in run.workers:
                run.hit(worker, number)
            await asyncio.sleep(seconds)


# 3, 4  requests and replies

IN_A_TRANSACTION = ("AddPartitionsToTxn", "Produce", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn")
IN_THE_GROUP = ("Fetch", "OffsetFetch", "Heartbeat", "JoinGroup", "SyncGroup", "FindCoordinator", "InitProducerId")


async def lossy(run: Run, apis: Sequence[str], *actions: str) -> None:
    """Each action strikes each kind of request a few times, in an order of the seed's."""
    await run.answered(0.02)
    rules = [
        Rule(api, action, chance=0.3, times=2, seconds=run.random.uniform(0.2, 1.5))
        for api in apis
        for action in actions
    ]
    run.random.shuffle(rules)
    for rule in rules:
        for each in run.proxies:
            each.rules = [*[kept for kept in each.rules if kept.times][-4:], rule]
        await run.sleep(0.2, 0.6)
    await run.sleep(2)
    await insist(run, rules)


async def insist(run: Run, rules: Sequence[Rule]) -> None:
    """Until each of them has struck: those that have not stand while partitions change hands again and again.

    Some requests are made only then.
    """
    async with asyncio.timeout(INSIST_S):
        while missed := [rule for rule in rules if not run.strike_counts()[str(rule)]]:
            for each in run.proxies:
                each.rules = [replace(rule, chance=1.0, times=1) for rule in missed]
            await join_and_leave(run)


def strikes(apis: Sequence[str], *actions: str) -> list[str]:
    """Names of all of them in a run's counts."""
    return [str(Rule(api, action)) for api in apis for action in actions]


LOST = (proxy.LOSE_REQUEST, proxy.DELAY)


async def lost_replies(run: Run) -> None:
    await lossy(run, IN_A_TRANSACTION, proxy.LOSE_REPLY)


async def lost_requests(run: Run) -> None:
    await lossy(run, IN_A_TRANSACTION, *LOST)


async def group_requests(run: Run) -> None:
    await lossy(run, IN_THE_GROUP, *LOST, proxy.LOSE_REPLY)


async def cuts(run: Run) -> None:
    """All connections at once, several times."""
    await run.answered(0.02)
    for _ in range(5):
        await run.sleep(0.3, 1.2)
        for each in run.proxies:
            each.cut()
            run.struck["all connections cut"] += 1


async def swallowed(run: Run) -> None:
    """A broker that takes requests and says nothing, until the client's own deadline."""
    await run.answered(0.02)
    for api in ("EndTxn", "Produce"):
        rule = Rule(api, proxy.SWALLOW)
        for each in run.proxies:
            each.rules.append(rule)
        async with asyncio.timeout(INSIST_S):
            while not run.strike_counts()[str(rule)]:  # noqa: ASYNC110  a proxy counts, and sets no event
                await asyncio.sleep(0.1)
        await run.sleep(4, 6)


async def late_end_txn(run: Run) -> None:
    """An EndTxn whose connection is cut, which is tried again and succeeds; then the first one arrives."""
    await run.answered(0.02)
    for seconds in (0.3, 1.0, 2.0, 3.0, 3.0):
        for each in run.proxies:
            each.rules.append(Rule("EndTxn", proxy.LATE, seconds=seconds))
        await run.sleep(0.5, 1.5)
    await run.sleep(4)


# 14  errors that a broker may answer with


REFUSED = ("InitProducerId", "AddPartitionsToTxn", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn")


async def refusals(run: Run) -> None:
    await run.answered(0.02)
    for api in REFUSED:
        for error in (
            CoordinatorLoadInProgressError,
            ConcurrentTransactions,
            NotCoordinatorForGroupError,
            InvalidTxnState,
            InvalidProducerEpoch,
        ):
            for each in run.proxies:
                each.rules = [Rule(api, proxy.REFUSE, code=error.errno)]
            await run.sleep(0.2, 0.5)
    await insist(run, [Rule(api, proxy.REFUSE, code=ConcurrentTransactions.errno) for api in REFUSED])
    for each in run.proxies:
        each.rules = [
            Rule("EndTxn", proxy.LIE, chance=0.3, code=error.errno, times=2)
            for error in (
                ConcurrentTransactions,
                InvalidTxnState,
                NotCoordinatorForGroupError,
            )
        ]
    await run.sleep(4)


async def loading(run: Run) -> None:
    """Partitions change hands while the group's coordinator has moved and does not know of offsets yet."""
    await run.answered(0.2)
    for error in (CoordinatorLoadInProgressError, NotCoordinatorForGroupError):
        for each in run.proxies:
            each.rules = [Rule("OffsetFetch", proxy.REFUSE, code=error.errno, times=18)]
        run.hit(run.pick(), signal.SIGTERM)
        await run.sleep(5)


# 5  brokers


async def broker_killed(run: Run) -> None:
    """Kills each of three brokers in turn: leaders and coordinators move."""
    await run.answered(0.02)
    for node in run.random.sample(range(1, run.cluster.nodes + 1), run.cluster.nodes):
        run.cluster.kafka.kill(node)
        run.struck["broker killed"] += 1
        await run.sleep(3, 8)
        await run.cluster.kafka.revive(node)
        await run.sleep(6, 9)  # to be in sync again


async def all_brokers_down(run: Run, seconds: float = 60.0) -> None:
    await run.answered(0.1)
    await run.fed.wait()  # the feed has no brokers either
    for node in range(1, run.cluster.nodes + 1):
        run.cluster.kafka.kill(node)
        run.struck["broker killed"] += 1
    await asyncio.sleep(seconds)
    # together: one alone has no quorum, and never listens
    await asyncio.gather(*(run.cluster.kafka.revive(node) for node in range(1, run.cluster.nodes + 1)))


# 6  the group


async def storm(run: Run, times: int = 5) -> None:
    """A member that joins and leaves again, every two seconds: each time all partitions are given back."""
    await run.answered(0.02)
    for _ in range(times):
        await join_and_leave(run)


async def join_and_leave(run: Run) -> None:
    """A member that no proxy is before."""
    member = AIOKafkaConsumer(
        run.posts,
        bootstrap_servers=run.cluster.bootstrap,
        group_id=run.group,
        enable_auto_commit=False,
        session_timeout_ms=int(SESSION_S * 1000),
        partition_assignment_strategy=_strategy(),
    )
    try:
        await member.start()
        run.struck["join"] += 1
        await run.sleep(0.2, 1.5)
    finally:
        await member.stop()
    await run.sleep(0.5, 2.0)


def _strategy() -> list[Any]:
    from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

    return [StickyPartitionAssignor]


async def rolling_deploy(run: Run) -> None:
    """Asks one worker after another to stop, while its successor starts."""
    await run.answered(0.02)
    for worker in tuple(run.workers):
        run.start_worker()
        await run.retire(worker)
        run.struck["deployed"] += 1


async def slow_device(run: Run) -> None:
    """A step outlasts session, rebalance and poll interval, and another worker joins in the middle of it."""
    await run.answered(0.05)
    run.start_worker()
    run.struck["worker started"] += 1
    await run.sleep(1)


# 8, 9, 10, 12, 13  what is in the posts


def misfits(times: int = 2) -> list[Misfit]:
    """Records that no verdict of a model can come of."""
    json_type = [("content-type", b"application/json")]

    def post(id: str, **fields: Any) -> bytes:
        return json.dumps({"id": id, "text": "fine"} | fields).encode()

    torn = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    found: list[Misfit] = []
    for turn in range(times):
        found += [
            (b"k-1", b'{"id": "broken', (), "k-1", "NOT_DECODABLE"),
            (b"k-2", None, (), "k-2", ERASED),
            (b"", None, (), "", "NULL_VALUE"),
            (None, b"\x00\xff\xfe", (), "", "NOT_DECODABLE"),
            (b"k-3", post(f"csv-{turn}"), [("content-type", b"text/csv")], f"csv-{turn}", "UNKNOWN_CONTENT_TYPE"),
            (b"k-4", b"\x0a\x01", [("content-type", b"application/x-protobuf")], "k-4", "NOT_DECODABLE"),
            (b"k-5", b'{"id": "", "text": "no id"}', json_type, "k-5", "INVALID_POST"),
            (b"k-6", post(f"wrong-{turn}", colour="red"), (), f"wrong-{turn}", "NOT_DECODABLE"),
            (b"k-7", post(f"torn-{turn}", images=[{"data": torn}]), (), f"torn-{turn}", "IMAGE_UNSUPPORTED"),
            (
                b"k-8",
                post(f"far-{turn}", images=[{"uri": "http://a.invalid/a.png"}]),
                (),
                f"far-{turn}",
                "IMAGE_FORBIDDEN",
            ),
            (b"k-9", post(f"sick-{turn}", text="a poison"), (), f"sick-{turn}", "MODEL_FAILED"),
            (b"h-1", post(f"headers-{turn}"), [("x", b"y" * 200_000), *json_type], f"headers-{turn}", ""),
            (b"h-2", b"[]", [(f"h-{n}", b"z" * 50) for n in range(2000)], "h-2", "NOT_DECODABLE"),
            (b"l-1", b"x" * 600_000, (), "l-1", "NOT_DECODABLE"),  # its dead letter is larger than its topic takes
        ]
    return found


def repeats(times: int = 10) -> list[Misfit]:
    """Upstream sends again, and sends edits out of order: the same id with the same and with other content."""
    found: list[Misfit] = []
    for turn in range(times):
        for text in ("first", "first", "edited", "first"):
            found.append(
                (b"again", json.dumps({"id": f"again-{turn}", "text": text}).encode(), (), f"again-{turn}", "")
            )
    return found


async def corrupt_fetches(run: Run) -> None:
    """A byte of what the broker hands out is another: its batch does not match its checksum."""
    await run.answered(0.02)
    for _ in range(3):
        for each in run.proxies:
            each.rules = [Rule("Fetch", proxy.CORRUPT, times=2)]
        await run.sleep(1, 2)
