"""Every metric, named once. Prometheus reads them where the settings say; by default nowhere."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, start_http_server

from moderation.errors import ConfigError

VIEW_LAG = Gauge("moderation_view_lag_records", "Records on the verdicts topic that the view has not folded in")
VIEW_AGE = Gauge("moderation_view_lag_seconds", "Age of the last record folded in, while there are more; else 0")
VIEW_STALLED = Gauge("moderation_view_stalled", "1 while the view's store cannot be written")
VIEW_BYTES = Gauge("moderation_view_bytes", "Bytes of the view's file that are in use")
FOLDED = Counter("moderation_view_folded_records", "Records folded into the view")
PRUNED = Counter("moderation_view_pruned_posts", "Posts that the view has forgotten by age or for want of room")
CALLS = Counter("moderation_api_calls", "Calls answered, by method and status code", ["method", "code"])
WATCHES = Gauge("moderation_api_watches", "Watches that are open")
PENDING = Gauge("moderation_api_pending_posts", "Posts put on the topic by this API that have no verdict yet")


def serve(listen: str) -> None:
    """Answers /metrics on host:port, in a thread of its own, until the process ends. Raises ConfigError."""
    host, _, port = listen.rpartition(":")
    try:
        start_http_server(int(port), host or "127.0.0.1")
    except (OSError, ValueError):
        raise ConfigError(f"MODERATION_API__METRICS: cannot listen on {listen}") from None
