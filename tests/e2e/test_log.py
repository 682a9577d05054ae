"""A log that cannot be written stops nothing: a real worker whose standard error is gone, full, stopped or closed."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from moderation.errors import DeviceError
from tests.support.commands import Service, produce
from tests.support.lookups import a_free_address
from tests.support.operations_port import ask
from tests.support.streams import STREAMS
from tests.support.topics import committed_records
from tests.support.until import until

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
        until(lambda: probe(address, "/readyz") == 200 or worker.poll() is not None, 120, lambda: "it is not ready")
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


def panicking(service: Service, folder: Path) -> str:
    """A checkpoint whose tokenizer makes the engine panic, in Rust, while it is read."""
    made = folder / "panicking"
    shutil.copytree(service.model, made)
    tokenizer = json.loads((made / "tokenizer.json").read_text())
    tokenizer["model"] = {
        "type": "BPE",
        "vocab": {"a": 0, "b": 1},
        "merges": ["a b"],
        "continuing_subword_prefix": "secret",
    }
    (made / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(made)


def test_a_model_that_panics_while_loading_ends_a_worker_without_its_text(service: Service, tmp_path: Path) -> None:
    model = panicking(service, tmp_path)
    with replace(service, extra={"MODERATION_MODEL": model}).worker() as worker:
        assert worker.wait(120) == DeviceError.exit_code
        failed = worker.wait_for("model_load_failed")
        assert failed["error"] == "PanicException"
        assert "tokenizer.py" in failed["frames"]
        assert worker.wait_for("process_crashed")["error"] == "DeviceError"
        assert worker.wait_for("library_printed")["bytes"] > 0  # what Rust prints of a panic
        assert "range end index" not in worker.log
        assert "panicked" not in worker.log


def test_a_model_that_panics_while_loading_ends_a_command_without_its_text(service: Service, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moderation", "classify", "--text", "fine", "--model"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
    environment = inherited | {"MODERATION_POLICIES": service.environment["MODERATION_POLICIES"]}
    whole = [*command, panicking(service, tmp_path)]
    ended = subprocess.run(whole, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == DeviceError.exit_code
    assert "PanicException" in ended.stderr
    assert "range end index" not in ended.stderr
    assert "panicked" not in ended.stderr
