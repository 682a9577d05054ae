"""When a view says that its store refuses it."""

from __future__ import annotations

from structlog.testing import capture_logs

from moderation.freshness import Stall
from moderation.stores import StoreUnavailableError


def test_each_reason_of_a_stall_is_said_once() -> None:
    stall = Stall()
    with capture_logs() as logged:
        for reason in ("cut", "25006", "cut", "25006"):
            stall.begin(StoreUnavailableError(reason))
        stall.end()
        stall.end()
        stall.begin(StoreUnavailableError("cut"))
        stall.end()
    assert [event.get("reason", event["event"]) for event in logged] == [
        *("cut", "25006", "view_goes_on"),
        *("cut", "view_goes_on"),
    ]
