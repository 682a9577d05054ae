"""The runbook's commands of `moderation` and of Kafka's tools, as typed, against a real Kafka and running roles."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.support import kafka_tools, runbook
from tests.support.commands import Service, produce
from tests.support.lookups import a_free_address
from tests.support.topics import committed_records, make_topics

REPO = Path(__file__).parents[2]
# Beside 0: something is wrong, as `top` and `policies live` report it.
MAY_END_WITH_1 = ("moderation top", "moderation policies live")
OUTPUT = {
    "moderation dlq list --since 1h": "IMAGE_NOT_FOUND",
    "moderation dlq show POSITION": "IMAGE_NOT_FOUND",
    "moderation dlq replay --since 6h --yes": "1",
    "moderation get POST_ID": "sound",
    "moderation list --json": "sound",
}


def run(command: str, values: dict[str, str], environment: dict[str, str], folder: Path) -> str:
    """What it prints. Fails unless it ends as the page says."""
    words = runbook.typed(command, values)
    words = [re.sub(r"^/tmp/", f"{folder}/", word) for word in words]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
    done = subprocess.run(
        [sys.executable, "-m", *words] if words[0] == "moderation" else words,
        cwd=REPO,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    ends = (0, 1) if command.startswith(MAY_END_WITH_1) else (0,)
    assert done.returncode in ends, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def test_commands_of_moderation(service: Service, tmp_path: Path) -> None:
    """In their order on the page, each with the settings of the role in whose pod it is typed."""
    worker_ops, api_ops, listen = a_free_address(), a_free_address(), a_free_address()
    of_worker = replace(service, extra={"MODERATION_OPS__LISTEN": worker_ops})
    of_api = replace(service, extra={"MODERATION_OPS__LISTEN": api_ops, "MODERATION_API__LISTEN": listen})
    values = {"POST_ID": "sound", "POSITION": "", "127.0.0.1:9464": worker_ops}
    posts: dict[str, dict[str, Any]] = {
        "sound": {"text": "a sound post"},
        "lacking": {"text": "its picture is not there", "images": [{"uri": f"file://{tmp_path}/none.png"}]},
    }
    with of_worker.worker() as worker, of_api.api() as api:
        worker.wait_for("worker_ready")
        api.wait_for("api_ready")
        records = [(id.encode(), json.dumps({"id": id} | post).encode(), ()) for id, post in posts.items()]
        asyncio.run(produce(service.kafka, service.posts, records))
        (dead,) = asyncio.run(committed_records(service.kafka, service.dead_letters, 1))
        asyncio.run(committed_records(service.kafka, service.verdicts, 2))
        values["POSITION"] = f"{dead.partition}/{dead.offset}"
        with urllib.request.urlopen(f"http://{worker_ops}/readyz", timeout=10) as response:
            assert response.status == 200
        tried = set()
        for code in runbook.codes():
            in_a_pod = runbook.IN_A_POD.fullmatch(code)
            for command in runbook.commands_of("moderation", code) or runbook.commands_of("rm", code):
                if command in tried:
                    continue
                tried.add(command)
                role = of_api if in_a_pod and in_a_pod[1].endswith("api") else of_worker
                typed = command.replace("127.0.0.1:9464", worker_ops)
                printed = run(typed, values, role.environment, tmp_path)
                assert OUTPUT.get(command, "") in printed, command
        assert not {*OUTPUT} - tried
        assert len(tried) > 10
        # The replayed post was judged again.
        asyncio.run(committed_records(service.kafka, service.verdicts, 3))


async def test_commands_of_kafka_s_tools(kafka: str, names: Callable[[str], str], tmp_path: Path) -> None:
    """The way out of a transaction that does not end, with a producer and without; and who is in a group."""
    topic = names("posts")
    await make_topics(kafka, topic)
    (tmp_path / "admin.properties").write_text("")
    values = {"KAFKA": kafka, "TOPIC": topic, "PARTITION": "0"}
    commands = runbook.commands(r"kafka-[a-z-]+\.sh")
    verbs = ["list", "describe-producers", "describe", "forceTerminateTransaction", "find-hanging", "abort"]
    verbs += ["--alter", "--group"]
    assert len(commands) == len(verbs)
    of = {verb: next(command for command in commands if f" {verb} " in command) for verb in verbs}
    assert sorted(of.values()) == sorted(commands)

    async def tool(verb: str) -> str:
        # Not five minutes: a millisecond.
        words = runbook.typed(of[verb].replace("300000", "1"), values)
        return await asyncio.to_thread(kafka_tools.run, *words, folder=tmp_path)

    def producer(name: str) -> AIOKafkaProducer:
        return AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=name, transaction_timeout_ms=600_000)

    values["GROUP"] = names("group")
    foreign = AIOKafkaConsumer(topic, bootstrap_servers=kafka, group_id=values["GROUP"], client_id="another-program")
    async with foreign:
        assert "another-program" in await tool("--group")

    values["TRANSACTION"] = names("upstream")
    async with producer(values["TRANSACTION"]) as hanging:
        await hanging.begin_transaction()
        await hanging.send_and_wait(topic, b"{}", key=b"1", partition=0)
        listed, producers, described = await asyncio.gather(tool("list"), tool("describe-producers"), tool("describe"))
        (ongoing,) = [line for line in listed.splitlines() if values["TRANSACTION"] in line]
        assert "Ongoing" in ongoing.split()
        assert producers.splitlines()[1].split()[-1] == "0", "the offset where it begins"
        assert "600000" in described
        await tool("forceTerminateTransaction")
    await produce(kafka, topic, [(b"2", b"{}", ())])
    assert [record.key for record in await committed_records(kafka, topic, 1)] == [b"2"]

    async with producer(names("forgotten")) as forgotten:
        await forgotten.begin_transaction()
        begun = await forgotten.send_and_wait(topic, b"{}", key=b"3", partition=0)
        values["OFFSET"] = str(begun.offset)
        await asyncio.gather(tool("find-hanging"), tool("--alter"))
        await tool("abort")
        await produce(kafka, topic, [(b"4", b"{}", ())])
        assert [record.key for record in await committed_records(kafka, topic, 2)] == [b"2", b"4"]
        await forgotten.abort_transaction()
