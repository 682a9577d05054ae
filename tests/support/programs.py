"""Small programs that run under `lifecycle.run`, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

PRELUDE = """
import asyncio, os, signal, sys, threading, time
from moderation import errors, lifecycle
from moderation.observability import logs
from moderation.settings import LogSettings
from moderation.types import Reason
logs.configure(LogSettings(format="json"))
"""


def start(code: str) -> subprocess.Popen[str]:
    program = PRELUDE + textwrap.dedent(code) + "\nsys.exit(lifecycle.run(main))"
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(code: str) -> tuple[int, list[dict[str, Any]]]:
    process = start(code)
    _, logged = process.communicate(timeout=60)
    return process.returncode, [json.loads(line) for line in logged.splitlines()]


def named(events: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(event for event in events if event["event"] == name)
