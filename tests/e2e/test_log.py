"""A log that cannot be written stops nothing: a real worker whose standard error is gone, full, stopped or closed."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.e2e.service import Service, committed_records, produce
from tests.integration.lookups import a_free_address
from tests.unit.test_log_writer import STREAMS
from tests.unit.test_ops import ask

POSTS = 30


def probe(address: str, path: str) -> int:
    try:
        return ask(address, path)[0]
    except OSError:
        return 0


@pytest.mark.parametrize("stream", [*STREAMS, "closed"])
def test_a_worker_answers_and_stops_without_its_log(service: Service, stream: str) -> None:
    address = a_free_address()
    some = replace(
        service,
        extra={"MODERATION_MODEL": "fake?raise_on=poison", "MODERATION_OPS__LISTEN": address},
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
    command = [sys.executable, "-m", "moderation", "worker"]
    with ExitStack() as stack:
        stderr = STREAMS[stream](stack) if stream in STREAMS else None
        if stream == "closed":
            command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
        if stream == "stopped":
            assert isinstance(stderr, int)
            fcntl.fcntl(stderr, fcntl.F_SETPIPE_SZ, 4096)
            os.write(stderr, b"x" * 4096)  # full from the beginning
        worker = stack.enter_context(subprocess.Popen(command, env=inherited | some.environment, stderr=stderr))
        stack.callback(worker.kill)
        while probe(address, "/readyz") != 200:
            assert worker.poll() is None
        posts = [json.dumps({"id": f"post-{number}", "text": "fine"}).encode() for number in range(POSTS)]
        bad = [b"{", json.dumps({"id": "poisoned", "text": "poison"}).encode()]
        for count, batch in ((2, bad), (2 + POSTS, posts), (4 + POSTS, bad), (4 + 2 * POSTS, posts)):
            asyncio.run(produce(service.kafka, service.posts, [(b"key", value, ()) for value in batch]))
            assert len(asyncio.run(committed_records(service.kafka, service.verdicts, count))) == count
            assert probe(address, "/livez") == probe(address, "/readyz") == 200
        assert len(asyncio.run(committed_records(service.kafka, service.dead_letters, 4))) == 4
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0
