"""What the role of the view may do in its database: looked at before the first statement needs it."""

from __future__ import annotations

from typing import Any

from moderation.errors import ConfigError


async def check(db: Any, schema: str, version: int) -> bool:
    """Returns whether the schema exists. `version`: of the tables in it.

    Raises ConfigError for a missing right, with the statement that gives it. The role needs CREATE on the database only
    where it has to make the schema.
    """
    row = await db.fetchrow(_SCHEMA, schema)
    role, database = row["role"], row["database"]
    if not row["made"]:
        if not row["may_make"]:
            made = f"CREATE SCHEMA {schema} AUTHORIZATION {role}"
            raise _missing(f"{role} lacks CREATE on {database}, and there is no schema {schema}", database, made)
        return False
    for right in ("USAGE", "CREATE"):
        if not row[right.lower()]:
            grant = f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}"
            raise _missing(f"{role} lacks {right} on the schema {schema}", database, grant)
    table = await db.fetchrow(_TABLES, schema, version)
    if table is not None:
        owner = f"ALTER TABLE {schema}.{table['name']} OWNER TO {role}"
        raise _missing(f"{role} is not the owner of {schema}.{table['name']}", database, owner)
    return True


def _missing(problem: str, database: str, statement: str) -> ConfigError:
    return ConfigError(
        f"MODERATION_API__VIEW_DATABASE: the role {problem}. An administrator of the database repairs it:",
        commands=[f"psql -d {database} -c '{statement}'"],
    )


_SCHEMA = """
    SELECT quote_ident(current_user) AS role, quote_ident(current_database()) AS database,
           to_regnamespace($1) IS NOT NULL AS made,
           has_database_privilege(current_database(), 'CREATE') AS may_make,
           has_schema_privilege(to_regnamespace($1)::oid, 'USAGE') AS usage,
           has_schema_privilege(to_regnamespace($1)::oid, 'CREATE') AS create"""
# An owner may read, write and drop. A role that is not may do some of that today and fail at the next rebuild.
_TABLES = """
    SELECT relname AS name FROM pg_class
    WHERE relnamespace = to_regnamespace($1) AND relkind = 'r' AND NOT pg_has_role(relowner, 'USAGE')
    AND relname ~ ('^(facts|generations|partitions|verdicts)_' || $2::int || '(_[0-9]+)?$')
    ORDER BY relname LIMIT 1"""
