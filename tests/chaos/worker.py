"""A real worker with a plan of faults: `python -m tests.chaos.worker '{"kill": "after_send", "pass": 3}'`.

kill, stop, stall    at this step, SIGKILL or SIGSTOP itself, or block the event loop for `seconds`
pass                 the number of the visit to that step; after_model waits for SIGUSR1 instead
sick                 the number of the model's step that raises DeviceError
clock                seconds by which its clock jumps at `pass` of `step`, and jumps back at three times `pass`
slow_fence           seconds between an assignment and its fence
max_poll_interval_ms of the consumer
design               a mutation; the checker must catch it

All changes to the real worker are made here, by wrapping. No production module knows of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from typing import Any

from moderation import lifecycle, settings
from moderation.errors import DeviceError
from moderation.kafka import clients
from moderation.models.fake import Fake
from moderation.observability import logs
from moderation.worker import restore, role
from moderation.worker.publisher import Publisher

IN_MODEL = "in_model"
AFTER_MODEL = "after_model"  # the outcomes of a step are on their way to the event loop; all earlier are committed
QUIET_S = 0.3  # without a transaction: there is none to come
COMMIT_STEPS = (
    "before_begin",
    "after_first_send",
    "after_send",
    "after_offsets",
    "during_end_txn",
    "after_commit",
)
AS_BUILT = "as built"
NO_RESEEK = "no re-seek after the fence"
PRODUCER_PER_WORKER = "a producer per worker"
NO_RESTORE = "no restore on assignment"
DESIGNS = (AS_BUILT, NO_RESEEK, PRODUCER_PER_WORKER, NO_RESTORE)


class Plan:
    """Counts how often each step is passed and strikes where the plan says."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        self.passes: Counter[str] = Counter()
        self.clock = 0.0
        self.open = 0  # transactions under way
        self.asked = False

    def at(self, step: str) -> None:
        self.passes[step] += 1
        plan = self.plan
        if plan.get("clock") and step == plan["step"]:
            if self.passes[step] in (plan["pass"], 3 * plan["pass"]):
                self.clock = plan["clock"] - self.clock
                self.report(step)
            return
        if self.passes[step] != plan.get("pass"):
            return
        if plan.get("kill") == step:
            self.report(step)
            os.kill(os.getpid(), signal.SIGKILL)
        elif plan.get("stop") == step:
            self.report(step)
            os.kill(os.getpid(), signal.SIGSTOP)
        elif plan.get("stall") == step:
            self.report(step)
            time.sleep(plan["seconds"])  # the event loop is what stands still

    def after_model(self) -> None:
        """Strikes after SIGUSR1, and between transactions: one that is cut short would fence its
        producer, and hide what it wakes to."""
        if self.plan.get("stop") != AFTER_MODEL or not self.asked:
            return
        self.asked, quiet = False, time.monotonic()
        while time.monotonic() - quiet < QUIET_S:
            time.sleep(QUIET_S / 30)
            quiet = time.monotonic() if self.open else quiet
        self.report(AFTER_MODEL)
        os.kill(os.getpid(), signal.SIGSTOP)

    def report(self, step: str) -> None:
        """The harness counts these lines: a fault that never struck proves nothing."""
        print(json.dumps({"event": "struck", "step": step, "plan": self.plan}), file=sys.stderr, flush=True)


def arm(plan: Plan) -> None:
    """Wraps the publisher's transaction and what it calls of its producer."""
    transact, start, send = Publisher._transact, Publisher._start, Publisher._send
    catch_up = Publisher._catch_up

    async def transact_wrapped(self: Publisher, *arguments: Any) -> Any:
        plan.at("before_begin")
        plan.open += 1
        try:
            return await transact(self, *arguments)
        finally:
            plan.open -= 1

    async def send_wrapped(self: Publisher, *arguments: Any) -> Any:
        sent = await send(self, *arguments)
        plan.at("after_first_send")
        return sent

    async def start_wrapped(self: Publisher) -> None:
        if seconds := plan.plan.get("slow_fence"):
            print(json.dumps({"event": "fencing"}), file=sys.stderr, flush=True)
            await asyncio.sleep(seconds)
        await start(self)

    async def catch_up_wrapped(self: Publisher) -> None:
        await catch_up(self)
        _wrap_producer(self._producer, plan)  # not before: what is counted are the steps of posts

    setattr(Publisher, "_transact", transact_wrapped)  # noqa: B010  so that mypy lets us
    setattr(Publisher, "_send", send_wrapped)  # noqa: B010
    setattr(Publisher, "_start", start_wrapped)  # noqa: B010
    setattr(Publisher, "_catch_up", catch_up_wrapped)  # noqa: B010

    score = Fake.score

    def score_wrapped(self: Fake, batch: Any) -> Any:
        plan.at(IN_MODEL)
        if plan.passes[IN_MODEL] == plan.plan.get("sick"):
            plan.report(IN_MODEL)
            raise DeviceError("the fake's device has failed, as the plan asked")
        scores = score(self, batch)
        plan.after_model()
        return scores

    setattr(Fake, "score", score_wrapped)  # noqa: B010


def _wrap_producer(producer: Any, plan: Plan) -> None:
    offsets, commit, send = producer.send_offsets_to_transaction, producer.commit_transaction, producer.client.send

    async def offsets_wrapped(*arguments: Any) -> None:
        plan.at("after_send")
        await offsets(*arguments)
        plan.at("after_offsets")

    async def commit_wrapped() -> None:
        await commit()
        plan.at("after_commit")

    async def send_wrapped(node: int, request: Any, **options: Any) -> Any:
        sending = asyncio.ensure_future(send(node, request, **options))
        if type(request).__name__.startswith("EndTxn"):
            for _ in range(5):  # until it is written; its answer takes longer
                await asyncio.sleep(0)
            plan.at("during_end_txn")
        return await sending

    producer.send_offsets_to_transaction, producer.commit_transaction = offsets_wrapped, commit_wrapped
    producer.client.send = send_wrapped


def mutate(design: str) -> None:
    """What the checker must be able to see."""
    if design == NO_RESEEK:
        enter = Publisher.__aenter__

        async def enter_wrapped(self: Publisher) -> Publisher:
            before = await self._find_position()  # what is found at the assignment, before the fence
            await enter(self)
            self.opening, self.position = before, before.position
            return self

        setattr(Publisher, "__aenter__", enter_wrapped)  # noqa: B010
    if design == PRODUCER_PER_WORKER:
        producer, suffix = clients.producer, f"-{os.getpid()}-{time.time_ns()}"

        def of_this_worker(some: Any, **options: Any) -> Any:
            """Fences no predecessor, because ids differ. (One id for all partitions would fence the worker itself.)"""
            return producer(some, **options | {"transactional_id": options["transactional_id"] + suffix})

        setattr(clients, "producer", of_this_worker)  # noqa: B010
    if design == NO_RESTORE:

        async def nothing(*_: Any) -> None:
            """The new owner of a partition knows no earlier verdict."""

        setattr(restore, "restore", nothing)  # noqa: B010


def main() -> int:
    os.nice(10)  # so that the harness strikes in time
    given = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    plan = Plan(given)
    signal.signal(signal.SIGUSR1, lambda *_: setattr(plan, "asked", True))
    arm(plan)
    mutate(given.get("design", AS_BUILT))
    if given.get("clock"):
        now, now_ns = time.time, time.time_ns
        time.time = lambda: now() + plan.clock
        time.time_ns = lambda: now_ns() + int(plan.clock * 1e9)
    if interval := given.get("max_poll_interval_ms"):
        consumer = clients.consumer
        clients.consumer = lambda *a, **o: consumer(*a, **o | {"max_poll_interval_ms": interval})
    some = settings.load()
    logs.configure(some.log)
    return lifecycle.run(lambda stop: role.run(some, stop))


if __name__ == "__main__":
    sys.exit(main())
