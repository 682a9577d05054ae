"""A post that ends the process ends few processes. All other posts get their verdict, and then this post does."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from statistics import median

import pytest

from tests.misbehaving.supervised import KILLER, QUIET, Pause, Run, play
from tests.support.harness import Harness
from tests.support.misbehaving_model import SECRET

FULL = bool(os.environ.get("MODERATION_TEST_FULL"))
PAUSE = Pause(2, 10) if FULL else Pause(0.5, 1)
SECONDS = 60 if FULL else 15
QUICK = {"fault:score:abort": -signal.SIGABRT, "fault:score:device": 3}
KINDS = QUICK | {
    "fault:score:hang": 3,
    "fault:encode:abort": -signal.SIGABRT,
    "fault:encode:device": 3,
}
MAX_DEATHS = 3  # one that makes it a suspect, and two while it is alone


@pytest.mark.parametrize("word", KINDS if FULL else QUICK)
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"] if FULL else ["exactly_once"])
async def test_a_post_that_ends_the_process_ends_few_processes(
    word: str, delivery: str, harness: Harness, tmp_path: Path
) -> None:
    run = await play(
        harness.with_kafka(delivery=delivery),
        word,
        seconds=SECONDS,
        pause=PAUSE,
        MODERATION_WORKER__STEP_TIMEOUT_S="5",
        MODERATION_WORKER__ENCODE_TIMEOUT_S="5",
    )
    print_figures(word, delivery, run)
    keep(run, tmp_path)
    once(run)
    dead = [record for record in run.verdicts if json.loads(record.value)["status"] == "STATUS_UNDETERMINED"]
    assert [json.loads(record.value)["postId"] for record in dead] == [f"post-{KILLER}"]
    assert json.loads(dead[0].value)["reason"] == "MODEL_CRASHED"
    assert len(run.letters) == 1
    assert dict(run.letters[0].headers)["dlq.error.code"] == b"MODEL_CRASHED"
    assert {life.code for life in run.deaths} == {KINDS[word]}
    assert {life.code for life in run.stops} <= {0, -signal.SIGTERM}  # the latter: while it was starting
    assert len(run.deaths) <= MAX_DEATHS
    assert len(run.events("post_given_up")) == 1
    assert run.events("partition_opened_with_suspects")
    if not word.endswith(":device"):  # the text of a DeviceError is the model's own, for operators
        assert not [log for log in run.logs if SECRET in log]


def once(run: Run) -> None:
    """Each post has one verdict, and each partition's are in order."""
    assert Counter(json.loads(record.value)["postId"] for record in run.verdicts) == Counter(run.sent.keys())
    for partition in range(QUIET):
        sources = [json.loads(record.value)["source"] for record in run.verdicts if record.partition == partition]
        offsets = [int(source.get("offset", 0)) for source in sources]
        assert offsets == sorted(offsets)


def print_figures(word: str, delivery: str, run: Run) -> None:
    """The figures, for a report."""
    begun = min(run.sent.values())
    ended = sorted(round(life.ended - begun, 1) for life in run.deaths)
    print(f"\n{word} {delivery}: {len(ended)} deaths, at {ended} s")
    for name, waits, posts in (
        ("other partitions", run.waits(*range(1, QUIET)), SECONDS * (QUIET - 1)),
        ("the first", run.waits(0), SECONDS),
    ):
        spent = f"{median(waits):.2f} s in the median, {max(waits):.1f} s at most" if waits else ""
        print(f"  {name}: {len(waits)} of {posts} answered; {spent}")


def keep(run: Run, folder: Path) -> None:
    """Saves the logs of all lives, for reading after a failure."""
    for at, supervisor in enumerate(run.supervisors):
        for number, life in enumerate(supervisor.lives):
            (folder / f"worker-{at}-{number}.log").write_text(life.log)
    print(f"  logs: {folder}")
