"""The broker that the tests of a process share, and names that no two tests share."""

from __future__ import annotations

import gc
import importlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from moderation.dev.jars import KafkaUnavailable, fetch_jars, find_java
from moderation.dev.kafka import LocalKafka
from moderation.errors import ConfigError
from tests.support.terminal import LAST, SENT, say, say_last
from tests.support.topics import delete_topics, run_apart

# Python 3.11's parser fails ("AST constructor recursion depth mismatch") when the collector runs a finalizer that
# parses too, as one that prints a traceback does, while pytest parses a test file.
gc.disable()
hypothesis = importlib.import_module("hypothesis")  # its plugin would, at the end: pytest parses it, too

# A shared machine may stand still for longer than any deadline of one example.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")


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
        say_last(pytestconfig, f"NOT TESTED AGAINST KAFKA: {error}")
        pytest.skip(str(error))


class SharedKafka:
    """One broker for all tests of this process, or the one that KAFKA_BOOTSTRAP_SERVERS names.

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
                for report in (say, say_last):
                    report(config, f"THE SHARED KAFKA DIED: {error}")
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


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of several processes has ended."""
    for line in getattr(node, "workeroutput", {}).get(SENT, ()):
        say_last(node.config, line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output[SENT] = session.config.stash.get(LAST, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(LAST, ()):
        terminalreporter.write_line(line, red=True, bold=True)
