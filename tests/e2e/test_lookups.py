"""Other services lean on lookups: commands as processes, an API that is killed, and a post that is erased."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from moderation import wire
from tests.support.commands import Service, produce
from tests.support.service import a_record, look_up
from tests.support.topics import committed_records


@contextmanager
def command(service: Service, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command of the client's side, its output to be read."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moderation", *arguments],
        env=os.environ | service.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def get(service: Service, *ids: str) -> tuple[int, dict[str, str]]:
    """Exit code and states."""
    with command(service, "get", "--json", *ids) as process:
        out, _ = process.communicate(timeout=60)
    results = [json.loads(line) for line in out.splitlines()]
    return process.returncode, {result["postId"]: result["state"].removeprefix("LOOKUP_STATE_") for result in results}


def changes(process: subprocess.Popen[str], count: int) -> tuple[dict[str, str], str]:
    """What the next changes are by post id, and the last token."""
    changes: dict[str, str] = {}
    token = ""
    while len(changes) < count:
        assert process.stdout
        message = json.loads(process.stdout.readline())
        token = message["consistencyToken"]
        for change in message.get("changes", ()):
            changes[change["postId"]] = "erasure" if "erasure" in change else "verdict"
    return changes, token


def test_an_api_that_is_killed_goes_on_and_an_erasure_reaches_everybody(service: Service, tmp_path: Path) -> None:
    records = [a_record(number, service.folder) for number in range(40)]
    keyed = [(json.loads(value)["id"].encode(), value, ()) for key, value, headers in records if value and not headers]
    ids = [key.decode() for key, _, _ in keyed]
    with service.worker() as worker:
        with service.api() as api:
            port = api.wait_for("api_ready")["port"]
            here = replace(service, extra={"MODERATION_API__LISTEN": f"127.0.0.1:{port}"})
            with command(here, "watch", "--json") as watch:
                assert watch.stdout
                assert "consistencyToken" in json.loads(watch.stdout.readline())  # it stands
                asyncio.run(produce(service.kafka, service.posts, keyed[:10]))
                seen, token = changes(watch, 10)
                assert seen == dict.fromkeys(ids[:10], "verdict")
            assert get(here, *ids[:10]) == (0, dict.fromkeys(ids[:10], "FOUND"))
            assert get(here, "never") == (1, {"never": "NOT_FOUND"})
            api.process.send_signal(signal.SIGKILL)
            api.wait()
        asyncio.run(produce(service.kafka, service.posts, keyed[10:]))
        asyncio.run(produce(service.kafka, service.posts, [(ids[3].encode(), None, ())]))
        verdicts = asyncio.run(committed_records(service.kafka, service.verdicts, len(ids) + 6))
        erased = [record for record in verdicts if record.value is None]  # once, and its copies on other partitions
        assert {record.key for record in erased} == {ids[3].encode()}
        assert len([record for record in erased if not wire.is_copy(record.headers)]) == 1
        left = [id for id in ids if id != ids[3]]
        with here.api() as api:
            assert api.wait_for("view_opened")["resumed"]
            api.wait_for("api_ready")
            assert asyncio.run(look_up(port, left)).keys() == set(left)
            assert get(here, ids[3]) == (1, {ids[3]: "NOT_FOUND"})
            with command(here, "watch", "--json", "--after", token) as watch:
                seen, _ = changes(watch, len(ids) - 10 + 1)
                assert seen == dict.fromkeys(ids[10:], "verdict") | {ids[3]: "erasure"}
            assert api.stop() == 0
        assert worker.stop() == 0
    dead = asyncio.run(committed_records(service.kafka, service.dead_letters))
    assert not dead
