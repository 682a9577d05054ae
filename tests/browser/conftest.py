"""The browser that the tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.browser.browser import Browser, missing
from tests.support.terminal import say_last


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Browser]:
    """Where there is none, its tests are skipped, and the summary says so; in CI, or if required, they fail."""
    if why := missing():
        if os.environ.get("CI") == "true" or os.environ.get("MODERATION_TEST_BROWSER") == "required":
            pytest.fail(why, pytrace=False)
        say_last(pytestconfig, f"NOT TESTED AGAINST A BROWSER: {why}")
        pytest.skip(why)
    with Browser.started(tmp_path_factory.mktemp("browser")) as started:
        yield started
