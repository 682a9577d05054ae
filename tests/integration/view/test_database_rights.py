"""Rights that the view needs in its database: what is missing is named, with the statement that gives it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from moderation.errors import ConfigError
from moderation.settings import ApiSettings
from moderation.view.stores import postgres_generations as generations
from moderation.view.stores.postgres_generations import NAME
from tests.support.replicas import Replicas
from tests.support.topics import make_topics
from tests.support.view_stores import Folding, an_entry, opened, sql, verdict


class Role:
    """A role without rights, and the administrator who gives it some."""

    def __init__(self, database: str, admin: Any) -> None:
        parts = urlsplit(database)
        self.name = f"r{uuid4().hex}"
        self.database = parts.path.removeprefix("/")
        self.url = urlunsplit(parts._replace(netloc=f"{self.name}:secret@{parts.hostname}:{parts.port}"))
        self.settings = ApiSettings(view_database=SecretStr(self.url))
        self._admin = admin

    async def do(self, *statements: str) -> None:
        for statement in statements:
            await self._admin.execute(sql(statement.format(role=self.name, database=self.database)))


@pytest.fixture
async def role(database: str) -> AsyncIterator[Role]:
    admin = await asyncpg.connect(database)
    made = Role(database, admin)
    await made.do("CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    yield made
    await admin.close()


SCHEMA_OF_ANOTHER = f"CREATE SCHEMA {NAME}"
TABLE_OF_ANOTHER = f"CREATE TABLE {NAME}.facts (name text, value text)"
# What the administrator has done before, and what is missing.
CASES = {
    "nothing": ([], f"lacks CREATE on d[0-9a-f]+, and there is no schema {NAME}"),
    "a schema of another role": ([SCHEMA_OF_ANOTHER], f"lacks USAGE on the schema {NAME}"),
    "a schema to look at": (
        [SCHEMA_OF_ANOTHER, f"GRANT USAGE ON SCHEMA {NAME} TO {{role}}"],
        f"lacks CREATE on the schema {NAME}",
    ),
    "a table of another role": (
        [SCHEMA_OF_ANOTHER, f"GRANT ALL ON SCHEMA {NAME} TO {{role}}", TABLE_OF_ANOTHER],
        rf"is not the owner of {NAME}\.facts_\d+",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_missing_right_is_named_and_what_is_said_repairs_it(role: Role, case: str) -> None:
    before, problem = CASES[case]
    await role.do(*before)
    with pytest.raises(ConfigError, match=problem) as caught:
        async with opened(role.settings):
            pass
    assert "secret" not in str(caught.value)
    (command,) = caught.value.commands
    statement = re.fullmatch(rf"psql -d {role.database} -c '(.*)'", command)
    assert statement
    await role._admin.execute(statement[1])
    if case == "a table of another role":
        await role.do(f"DROP TABLE {NAME}.facts")  # which is none of ours: only its owner was in the way
    async with opened(role.settings) as store:
        await Folding(store)(an_entry("a", 1))
        assert await verdict(store, "a") == b"a@1"


async def test_a_schema_that_was_made_for_the_role_is_all_that_it_ever_needs(
    role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a view that is built again, and for tables that are dropped."""
    monkeypatch.setattr(generations, "REPLACED_S", 0.0)
    await role.do(f"CREATE SCHEMA {NAME} AUTHORIZATION {{role}}")
    async with opened(role.settings) as store:
        await Folding(store)(an_entry("a", 1))
        await role.do(f"UPDATE {NAME}.generations SET seen = now() - interval '13 hours'")  # noqa: S608
        async with opened(role.settings) as building:
            await Folding(building)(an_entry("a", 1))
            assert await building.serve()
            await building.followed(0.0)
            assert await verdict(building, "a") == b"a@1"
    assert await role._admin.fetchval("SELECT to_regclass($1)", generations.table(1)) is None


async def test_a_process_without_rights_ends_as_one_whose_settings_are_wrong(
    kafka: str, names: Callable[[str], str], role: Role
) -> None:
    replicas = Replicas(kafka, names("posts"), names("verdicts"), role.url)
    await make_topics(kafka, replicas.posts, replicas.verdicts, partitions=1)
    with replicas.starting() as process:
        assert await asyncio.to_thread(process.wait) == 2
    (rejected,) = replicas.events("configuration_rejected")
    assert "lacks CREATE" in rejected["message"]
    assert rejected["commands"] == [f"psql -d {role.database} -c 'CREATE SCHEMA {NAME} AUTHORIZATION {role.name}'"]
