"""The servers, as processes. They lie in the cache, or are built now, which takes minutes."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from moderation.dev.ports import free_ports
from tests.support.processes import end
from tests.support.terminal import say
from tests.support.until import until

START_S = 30.0


@pytest.fixture
def progress(pytestconfig: pytest.Config) -> Callable[[str], object]:
    return lambda line: say(pytestconfig, line)


@contextmanager
def serving(
    command: Callable[[int], list[str]], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """host:port of a server. command: of a port."""
    [port] = free_ports(1)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with log.open("wb") as output:
        process = subprocess.Popen(
            command(port), stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        try:
            until(lambda: listens() or process.poll() is not None, START_S, log.read_text)
            assert process.poll() is None, log.read_text()
            yield f"127.0.0.1:{port}"
        finally:
            end(process)
