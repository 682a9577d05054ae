"""When a view says that its store refuses it."""

from __future__ import annotations

from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.view.freshness import Stall
from moderation.view.stores import StoreUnavailableError


def test_each_reason_of_a_stall_is_reported_once() -> None:
    stall = Stall()
    with capture_logs() as logged:
        for reason in ("cut", "25006", "cut", "25006"):
            stall.begin("fold", StoreUnavailableError(reason))
        stall.end("fold")
        stall.end("fold")
        stall.begin("fold", StoreUnavailableError("cut"))
        stall.end("fold")
    assert [event.get("reason", event["event"]) for event in logged] == [
        *("cut", "25006", "view_recovered"),
        *("cut", "view_recovered"),
    ]


def test_a_store_that_folds_and_does_not_forget_stays_stalled() -> None:
    stall = Stall()

    def stalled() -> float | None:
        return REGISTRY.get_sample_value("moderation_view_stalled")

    with capture_logs() as logged:
        for _ in range(3):
            stall.begin("prune", StoreUnavailableError("42501"))
            stall.begin("fold", StoreUnavailableError("cut"))
            stall.end("fold")
            stall.end("follow")
            assert stalled() == 1
        stall.end("prune")
        assert stalled() == 0
    assert [event.get("operation", event["event"]) for event in logged] == ["prune", *["fold"] * 3, "view_recovered"]
