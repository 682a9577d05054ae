"""A changed policy is live once worker and API were started again, and `moderation policies live` says so."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from moderation.client import Client, LookupState, Post
from moderation.policies import PolicySet
from tests.support.commands import Role, Service
from tests.support.lookups import a_free_address
from tests.support.operations_port import ask

REPO = Path(__file__).parents[2]


def live(folder: Path, worker: str, api: str) -> tuple[int, dict[str, Any]]:
    """The exit code of the command, and what it says of worker, api and verdicts."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
    command = [sys.executable, "-m", "moderation", "policies", "live", worker, "--api", api, "--policies", str(folder)]
    done = subprocess.run([*command, "--json"], env=inherited, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    places = {name: place for place in json.loads(done.stdout)["places"] for name in NAMES if name in place["place"]}
    return done.returncode, places


NAMES = ("worker", "api", "verdicts")


async def judged(api: str, id: str) -> None:
    async with Client(api) as client:
        response = await client.moderate(Post(id=id, text="hello"), timeout=60)
        assert response.state == LookupState.LOOKUP_STATE_FOUND


def test_a_change_is_live_after_a_restart(service: Service) -> None:
    folder = shutil.copytree(REPO / "policies/demo", service.folder / "policies")
    service = replace(service, model="fake", extra={"MODERATION_POLICIES": str(folder)})
    ops = a_free_address()

    def worker() -> Role:
        return Role("worker", environment={**service.environment, "MODERATION_OPS__LISTEN": ops})

    api_ops = a_free_address()
    with Role("api", environment={**service.environment, "MODERATION_OPS__LISTEN": api_ops}) as api:
        address = f"127.0.0.1:{api.wait_for('api_ready')['port']}"
        with worker() as role:
            role.wait_for("worker_ready")
            asyncio.run(judged(address, "1"))
            code, places = live(folder, ops, address)
            assert (code, set(places)) == (0, set(NAMES))
            assert {place["digest"] for place in places.values()} == {PolicySet.load(folder).digest}
            assert all(place["since"] for place in places.values())
            assert (
                'moderation_policy_info{policy="alcohol",status="live",version="1"} 1.0' in ask(api_ops, "/metrics")[1]
            )
            path = folder / "alcohol.yaml"
            path.write_text(path.read_text().replace("version: 1", "version: 2").replace("shows or", "shows, sells or"))
            code, places = live(folder, ops, address)
            assert (code, {place["same"] for place in places.values()}) == (1, {False})
            assert {place["versions"]["alcohol"] for place in places.values()} == {"1"}
            assert role.stop() == 0
        with worker() as role:
            role.wait_for("worker_ready")
            asyncio.run(judged(address, "2"))
            code, places = live(folder, ops, address)
            assert (code, places["worker"]["same"], places["api"]["same"]) == (1, True, False)
            assert api.stop() == 0
            with service.api() as renewed:
                address = f"127.0.0.1:{renewed.wait_for('api_ready')['port']}"
                code, places = live(folder, ops, address)
                assert (code, places["worker"]["same"], places["api"]["same"]) == (0, True, True)
                assert places["verdicts"]["former"], "of the verdict before the change"
