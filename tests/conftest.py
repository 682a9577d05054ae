"""The broker that the tests share, and names that no two tests share."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError

from moderation.dev.jars import KafkaUnavailable, fetch_jars, find_java
from moderation.dev.kafka import LocalKafka
from moderation.dev.topics import create_topics
from moderation.errors import ConfigError

T = TypeVar("T")

UNAVAILABLE = pytest.StashKey[str]()
DIED = pytest.StashKey[list[str]]()  # why shared brokers have ended

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


class SharedKafka:
    """One broker for the whole run, or the one that KAFKA_BOOTSTRAP_SERVERS names.

    A broker that has died is reported with the end of its log, and another takes its place: the tests that follow say
    nothing about it.
    """

    def __init__(self) -> None:
        self._given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")
        self._local: LocalKafka | None = None

    def bootstrap(self, config: pytest.Config) -> str:
        """Its address, once it answers."""
        if self._given:
            return self._given
        if self._local is not None:
            try:
                self._local.check()
            except ConfigError as error:
                say(config, f"THE SHARED KAFKA DIED: {error}")
                config.stash.setdefault(DIED, []).append(str(error))
                self.stop()
        if self._local is None:
            local = LocalKafka(heap_mb=512)  # at 256 it ran out of heap after some 2,000 partitions
            run_apart(local.start())
            self._local = local
        return self._local.bootstrap

    def stop(self) -> None:
        """Stops it, and removes its folder."""
        if self._local is not None:
            run_apart(self._local.stop())
            self._local = None


@pytest.fixture(scope="session")
def shared_kafka(request: pytest.FixtureRequest) -> Iterator[SharedKafka]:
    """The broker that the tests share; it starts when a test asks for `kafka`."""
    shared = SharedKafka()
    yield shared
    shared.stop()


@pytest.fixture
def kafka(request: pytest.FixtureRequest, shared_kafka: SharedKafka) -> str:
    """Bootstrap servers of a real Kafka."""
    if not os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        request.getfixturevalue("local_kafka")
    return shared_kafka.bootstrap(request.config)


@pytest.fixture
def names(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Topic, group and transaction names: `names("posts")` is another in every test and every run.

    Topics with such a name are deleted after the test: a broker with thousands of partitions is a slow one.
    """
    test = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")[:60]
    given: list[str] = []

    def name(kind: str) -> str:
        given.append(f"{kind}-{test}-{uuid4().hex[:8]}")
        return given[-1]

    yield name
    if given and "kafka" in request.fixturenames:
        run_apart(delete_topics(request.getfixturevalue("kafka"), given))


async def delete_topics(kafka: str, names: Sequence[str]) -> None:
    """Those that have one of the names in their own; says nothing where the broker is gone."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    try:
        await admin.start()
        if topics := [topic for topic in await admin.list_topics() if any(name in topic for name in names)]:
            await admin.delete_topics(topics)
    except KafkaConnectionError:
        return
    finally:
        await admin.close()


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
    for death in config.stash.get(DIED, []):
        terminalreporter.write_line(f"THE SHARED KAFKA DIED: {death}", red=True, bold=True)
    if reason := config.stash.get(UNAVAILABLE, None):
        terminalreporter.write_line(f"NOT TESTED AGAINST KAFKA: {reason}", red=True, bold=True)
