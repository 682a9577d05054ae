"""Fixtures of the worker tests."""

from __future__ import annotations

import pytest

from tests.support.harness import Harness


@pytest.fixture(params=["exactly_once", "at_least_once"])
def each_delivery(request: pytest.FixtureRequest, harness: Harness) -> Harness:
    """For promises that hold with and without transactions."""
    return harness.with_kafka(delivery=request.param)
