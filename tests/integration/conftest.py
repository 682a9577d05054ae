"""Topics, policies and settings of one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from moderation import models
from tests.support import pgbouncer as pgbouncer_
from tests.support import postgres
from tests.support.harness import Fickle, Harness, a_harness
from tests.support.lookups import Api
from tests.support.terminal import say_last
from tests.support.topics import make_topics


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a real PostgreSQL for the whole run."""
    with postgres.running() as url:
        yield url


@pytest.fixture
async def database(postgres_server: str) -> str:
    """URL of a database that no other test has."""
    name = f"d{uuid4().hex}"
    connection = await asyncpg.connect(f"{postgres_server}/postgres")
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return f"{postgres_server}/{name}"


@pytest.fixture(scope="session")
def pgbouncer(pytestconfig: pytest.Config, postgres_server: str) -> Iterator[str]:
    """URL of the same server through a PgBouncer in transaction pooling.

    Where it is not installed, the tests that need it are skipped, and the summary says so.
    """
    if pgbouncer_.binary() is None:
        missing = "NOT TESTED THROUGH PGBOUNCER: it is not installed (apt-get install pgbouncer)"
        say_last(pytestconfig, missing)
        pytest.skip(missing)
    with pgbouncer_.running(postgres_server) as url:
        yield url


@pytest.fixture
def pooled_database(database: str, pgbouncer: str) -> str:
    """URL of `database` through PgBouncer."""
    return f"{pgbouncer}/{database.rpartition('/')[2]}"


@pytest.fixture
async def running_api(kafka: str, names: Callable[[str], str], tmp_path: Path) -> Api:
    posts, verdicts = names("posts"), names("verdicts")
    await make_topics(kafka, posts, verdicts, partitions=3, max_message_bytes="200000")
    return Api(kafka, posts, verdicts, tmp_path)


@pytest.fixture
async def harness(kafka: str, names: Callable[[str], str], tmp_path: Path) -> Harness:
    return await a_harness(kafka, names, tmp_path)


@pytest.fixture
def fickle(monkeypatch: pytest.MonkeyPatch) -> Fickle:
    model = Fickle()
    monkeypatch.setattr(models, "load", lambda settings: model)
    return model
