"""`moderation classify` of many posts is killed or interrupted, and goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.until import until

POLICY = """
id: lakes
version: 1
title: Lakes
question: Does this post mention a lake?
violates: [{id: L1, text: mentions a lake}]
thresholds: {review: 0.4, remove: 0.9}
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_keeps_what_is_done_and_the_same_command_goes_on(
    number: signal.Signals, tmp_path: Path
) -> None:
    folder, path, out = tmp_path / "policies", tmp_path / "posts.csv", tmp_path / "out.json"
    folder.mkdir()
    (folder / "lakes.yaml").write_text(POLICY)
    path.write_text("text\n" + "".join(f"post number {place}\n" for place in range(200)))
    part = out.with_name("out.json.part")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}

    def started(model: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "moderation", "classify", "--policies", str(folder), "--posts", str(path)]
        return subprocess.Popen(
            [*command, "--out", str(out), "--model", model],
            env=inherited,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )

    def kept() -> list[str]:
        return part.read_text().splitlines()[1:] if part.exists() else []

    process = started("fake?step_ms=500")
    try:
        until(lambda: len(kept()) >= 10, 60, lambda: f"{len(kept())} verdicts are kept")
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    before = kept()
    assert 10 <= len(before) < 200
    if number is signal.SIGINT:
        assert process.returncode == 130
        assert f"interrupted: {len(before)} of 200 posts are judged, and kept: the same command goes on" in said
    assert not out.exists()
    process = started("fake?dies_on=number+0")  # it would die if it judged the first post again
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert f"{len(before)} verdicts are kept from the last time" in said
    assert len(json.loads(out.read_text())["posts"]) == 200
    assert not part.exists()
