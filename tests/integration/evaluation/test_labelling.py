"""`moderation policies label` as a process at a terminal, which is killed."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moderation.evaluation.samples import labels, samples
from moderation.evaluation.samples.labels import Settled
from moderation.policies import score_digest
from moderation.policies.loading import load_policy
from tests.support.samples import a_sample, some_items

POLICY = """
id: no-lakes
version: 1
title: Lakes
question: Does this post mention a lake?
violates: [{id: L1, text: mentions a lake}]
thresholds: {review: 0.5, remove: 0.9}
"""


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    (tmp_path / "no-lakes.yaml").write_text(POLICY)
    digest = score_digest(load_policy(tmp_path / "no-lakes.yaml"), "a" * 64)
    path = tmp_path / "no-lakes.sample.jsonl"
    samples.write(path, a_sample(score_digest=digest), some_items(4))
    return path


def test_a_process_that_is_killed_loses_no_label_and_the_next_goes_on(sample: Path) -> None:
    assert labelled(sample, "vv", end=signal.SIGKILL) == -signal.SIGKILL
    assert labels.settled(sample).labels == (*(Settled.VIOLATES,) * 2, *(Settled.UNLABELLED,) * 2)
    assert labelled(sample, "a", done=2, end=signal.SIGINT) == 0
    assert labels.settled(sample).labels[2:] == (Settled.ALLOWED, Settled.UNLABELLED)


def labelled(sample: Path, pressed: str, *, end: int, done: int = 0) -> int:
    """Presses keys once their items are shown, and sends the signal. done: labels so far. Returns the exit code."""
    command = [sys.executable, "-m", "moderation", "policies", "label", str(sample), "--as", "anna"]
    person, terminal = pty.openpty()
    environment = {**os.environ, "MODERATION_POLICIES": str(sample.parent)}
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment)
    try:
        for number, key in enumerate(pressed, done):
            until_shown(person, f"{number + 1}: {number} of 4 done")
            os.write(person, key.encode())
        until_shown(person, f"{done + len(pressed) + 1}: {done + len(pressed)} of 4 done")
        process.send_signal(end)
        return process.wait(timeout=60)
    finally:
        process.kill()
        process.wait(timeout=60)
        os.close(terminal)
        os.close(person)


def until_shown(person: int, text: str, timeout_s: float = 60) -> None:
    shown, ends = "", time.monotonic() + timeout_s
    while text not in shown:
        assert time.monotonic() < ends, shown
        if select.select([person], [], [], 1)[0]:
            shown += os.read(person, 65536).decode("utf-8", "replace")
