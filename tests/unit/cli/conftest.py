"""A command that runs in the process of the tests sets logging up for all of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.logged import logging_restored


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Logging is the same after each test."""
    with logging_restored():
        yield
