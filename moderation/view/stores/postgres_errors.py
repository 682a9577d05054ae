"""The driver's errors as ours, by name and SQLSTATE: their texts may hold secrets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from asyncpg.exceptions import PostgresConnectionError

from moderation.errors import ConfigError, DeliveryError
from moderation.view.stores import StoreUnavailableError

LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError)  # what the driver raises for a lost connection
# Errors that may pass: the server stops, starts, is full or busy, or refuses us until an operator repairs that. Classes
# of SQLSTATE, and single ones: read-only, a turn that was too long, missing rights.
PASSES = ("08", "28", "3D", "40", "53", "55", "57", "58", "25006", "25P03", "25P04", "42501")
# What an operator looks at, by the beginning of the SQLSTATE.
CAUSES = {
    "08P01": "a pooler refuses the connection, or cannot reach the server: its log says why",
    "25006": "the server or the role is read-only",
    "28": "user and password of the URL",
    "3D000": "there is no such database, or it takes no connections",
    "42501": "the role lacks a right",
    "53100": "the disk is full",
    "53300": "too many connections",
    "55P03": "another session holds a lock",
    "57014": "the statement took too long",
    "57P": "the server is starting or stopping",
}


class TableGoneError(Exception):
    """A table that a statement names does not exist."""


@contextmanager
def explained(*, opened: bool) -> Iterator[None]:
    """Turns the driver's errors into ours. `opened`: see `refused`."""
    try:
        yield
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        raise TableGoneError from None
    except asyncpg.PostgresError as error:
        state = str(error.sqlstate or "")
        name = f"{type(error).__name__} {state}".strip()
        if state.startswith(PASSES) or isinstance(error, PostgresConnectionError):
            cause = next((f" ({cause})" for begin, cause in CAUSES.items() if state.startswith(begin)), "")
            raise StoreUnavailableError(f"the view's database: {name}{cause}") from None
        raise refused(name, opened=opened) from None
    except (*LOST, OSError, TimeoutError) as error:
        raise StoreUnavailableError(f"the view's database: {type(error).__name__}") from None


def refused(error: str, *, opened: bool) -> ConfigError | DeliveryError:
    """The error for a statement that the database will always refuse.

    `opened`: the view was open before, so a fresh start may repair it. Otherwise the operator has to.
    """
    if opened:
        return DeliveryError(f"the view's database refused a statement: {error}: restart the API")
    return ConfigError(f"MODERATION_API__VIEW_DATABASE: the database refused a statement: {error}")
