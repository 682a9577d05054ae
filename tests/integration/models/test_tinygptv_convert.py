"""The converter as a process that is killed, interrupted, or whose disk takes no more."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moderation import models
from moderation.errors import ConfigError
from moderation.models.tinygptv.convert import convert
from moderation.settings import ModelSettings
from tests.support.tinygptv_artefacts import Downloads, equal, tensors_of

SMALL_SHARD = 100_000

BLOCKED = """
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from moderation.models.tinygptv.convert import Files, convert

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def progress(line):
    print(line, flush=True)
    if line.startswith(sys.argv[6]):
        sys.stdin.read()  # until the test ends this process

convert(Path(sys.argv[1]), Files(*map(Path, sys.argv[2:6])), shard=100_000, progress=progress)
"""


@pytest.mark.parametrize(
    ("signal_", "moment"),
    [
        (signal.SIGKILL, "SHA-256"),
        (signal.SIGKILL, "model-00001"),
        (signal.SIGKILL, "model-00005"),
        (signal.SIGINT, "model-00005"),
    ],
)
def test_a_killed_converter_leaves_nothing_that_looks_whole(
    tmp_path: Path, signal_: signal.Signals, moment: str
) -> None:
    inputs = Downloads().write(tmp_path / "in")
    paths = [tmp_path / "out", inputs.vit, inputs.qformer, inputs.phi, inputs.stage]
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED, *map(str, paths), moment],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert any(line.startswith(moment) for line in process.stdout)
    process.send_signal(signal_)
    process.communicate(timeout=60)
    assert process.returncode != 0
    left = sorted(path.name for path in tmp_path.iterdir() if path.name != "in")
    if signal_ is signal.SIGINT:
        assert not left
    assert all(name.startswith("out.unfinished.") for name in left)
    for name in left:
        with pytest.raises(ConfigError, match=r"config\.json is missing"):
            models.load(ModelSettings(name=str(tmp_path / name), device="cpu"))
    convert(tmp_path / "out", inputs)
    convert(tmp_path / "undisturbed", inputs)
    assert equal(tensors_of(tmp_path / "out"), tensors_of(tmp_path / "undisturbed"))


LIMITED = """
import resource, sys
from pathlib import Path
from moderation.errors import ConfigError
from moderation.models.tinygptv.convert import Files, convert

resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
try:
    convert(Path(sys.argv[1]), Files(*map(Path, sys.argv[2:6])), shard=100_000)
except ConfigError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_leaves_nothing(tmp_path: Path) -> None:
    inputs = Downloads().write(tmp_path / "in")
    paths = [tmp_path / "out", inputs.vit, inputs.qformer, inputs.phi, inputs.stage]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, paths)], capture_output=True, text=True, timeout=60, check=True
    )
    assert re.match(rf"{tmp_path}/out: cannot be written \(.*File too large", done.stdout), done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
