"""The broker that the tests share, and names that no two tests share."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import re
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import uuid4

import pytest

from moderation.dev.jars import KafkaUnavailable, fetch_jars, find_java
from moderation.dev.kafka import LocalKafka
from moderation.dev.topics import create_topics

T = TypeVar("T")

UNAVAILABLE = pytest.StashKey[str]()

# Python 3.11's parser fails ("AST constructor recursion depth mismatch") when the collector runs a finalizer that
# parses too, as one that prints a traceback does, while pytest parses a test file.
gc.disable()
hypothesis = importlib.import_module("hypothesis")  # its plugin would, at the end: pytest parses it, too

# A shared machine may stand still for longer than any deadline of one example.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


def run_apart(work: Coroutine[object, object, T]) -> T:
    """Runs it on a loop in a thread of its own: a sync fixture stays out of the way of the tests' loops."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


@pytest.fixture(scope="session")
def local_kafka(pytestconfig: pytest.Config) -> None:
    """For a test that starts brokers of its own: what they are made of is here.

    Where it cannot be had, the tests that need it are skipped, and the summary says so; in CI they fail.
    """
    try:
        find_java()
        fetch_jars(lambda line: say(pytestconfig, line))
    except KafkaUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytestconfig.stash[UNAVAILABLE] = str(error)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[str]:
    """Bootstrap servers of a real Kafka: KAFKA_BOOTSTRAP_SERVERS, or one broker for the whole run."""
    if given := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield given
        return
    request.getfixturevalue("local_kafka")
    local = LocalKafka()
    run_apart(local.start())
    yield local.bootstrap
    run_apart(local.stop())


@pytest.fixture
def names(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Topic, group and transaction names: `names("posts")` is another in every test and every run."""
    test = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")[:60]
    return lambda kind: f"{kind}-{test}-{uuid4().hex[:8]}"


async def make_topics(kafka: str, *topics: str, partitions: int = 1, **configs: str) -> None:
    """Returns when they can be used. Topic settings in Python's spelling: `cleanup_policy="compact"`."""
    settings = {key.replace("_", "."): value for key, value in configs.items()}
    await create_topics(kafka, *topics, partitions=partitions, configs=settings)


def say(config: pytest.Config, line: str) -> None:
    """To the terminal at once: a first run waits here for a download."""
    capture = config.pluginmanager.getplugin("capturemanager")
    terminal = config.pluginmanager.getplugin("terminalreporter")
    if capture and terminal:
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(line)


def pytest_collection_finish() -> None:
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if reason := config.stash.get(UNAVAILABLE, None):
        terminalreporter.write_line(f"NOT TESTED AGAINST KAFKA: {reason}", red=True, bold=True)
