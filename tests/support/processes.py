"""Ends programs that tests have started."""

from __future__ import annotations

import subprocess
from typing import Any

GRACE_S = 10.0


def end(process: subprocess.Popen[Any]) -> None:
    """Asks a program to end, and kills it if it does not in time."""
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
