"""A chaos run without its faults does not pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chaos import proxy
from tests.chaos.checker import Findings
from tests.chaos.faults import nothing
from tests.chaos.fleet import Worker
from tests.chaos.harness import Cluster, Run
from tests.chaos.proxy import APIS, Proxy, Rule
from tests.chaos.scenario import Result, Scenario
from tests.chaos.scenarios import BROKERS, SCENARIOS

EVERY = SCENARIOS | BROKERS


def test_what_must_strike_is_counted_by_workers_proxies_and_the_run(tmp_path: Path) -> None:
    must = ["SIGKILL", "after_send struck", "swallow Produce", "lose reply JoinGroup"]
    run = Run(Cluster(), Scenario("x", "all kinds", nothing, must=must), 1, tmp_path)
    assert run.spared() == must
    run.struck["SIGKILL"] += 1
    run.workers = [Worker(0, {}, (), tmp_path / "log")]
    lines = ({"event": "struck", "step": "after_send"}, {"event": "partition_assigned"})
    run.workers[0].log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.proxies = [Proxy(1, 2)]
    run.proxies[0].rules = [Rule("Produce", proxy.SWALLOW), Rule("JoinGroup", proxy.LOSE_REPLY)]
    assert run.proxies[0].rule_for(APIS["Fetch"]) is None
    assert run.proxies[0].rule_for(APIS["Produce"]) is not None
    assert run.spared() == ["lose reply JoinGroup"]
    assert run.strike_counts()["partition_assigned"] == 1


def test_a_run_with_a_problem_is_not_ok() -> None:
    def a_result(*problems: str) -> Result:
        return Result("x", "as built", "none", 1, 1, {}, {}, 1.0, Findings(), list(problems))

    assert a_result().ok
    assert not a_result("this run proves nothing").ok


@pytest.mark.parametrize("name", EVERY)
def test_every_scenario_says_what_must_strike(name: str) -> None:
    must = EVERY[name].must
    assert must or name in ("0", "20q"), "these have no fault"
    for action in (proxy.LOSE_REPLY, proxy.LOSE_REQUEST, proxy.DELAY, proxy.SWALLOW, proxy.REFUSE):
        assert {name.removeprefix(f"{action} ") for name in must if name.startswith(action)} <= APIS.keys()


def test_each_request_of_the_group_is_struck_in_each_way() -> None:
    group = ("OffsetFetch", "JoinGroup", "SyncGroup", "InitProducerId", "FindCoordinator", "Heartbeat", "Fetch")
    actions = (proxy.LOSE_REQUEST, proxy.LOSE_REPLY, proxy.DELAY)
    assert {f"{action} {api}" for action in actions for api in group} == set(SCENARIOS["3g"].must)
