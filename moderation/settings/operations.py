"""Settings for operators: probes, traces, logs."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from moderation.settings.kinds import Group, Ratio, Seconds, advanced, basic


class OpsSettings(Group):
    """Ops: metrics and probes."""

    listen: str = basic("", "host:port for /metrics, /livez, /readyz and /startupz of a role; empty: none")
    loop_timeout_s: Seconds = advanced(30.0, "/livez fails when the event loop was blocked for this long")


class TracesSettings(Group):
    """Traces: needs the extra `otel`."""

    endpoint: str = advanced("", "URL of an OpenTelemetry collector (OTLP over HTTP); empty: no traces")
    sample_ratio: Ratio = advanced(0.05, "share of posts and calls traced, where the caller did not decide")

    @model_validator(mode="after")
    def _is_http(self) -> Self:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError("endpoint must be an http or https URL")
        return self


class LogSettings(Group):
    """Log: level and format."""

    level: Literal["debug", "info", "warning", "error"] = basic("info", "debug logs each post and its outcome")
    format: Literal["auto", "json", "console"] = advanced("auto", "auto: console on a terminal, else JSON")
    raw: bool = advanced(False, "whether output of C and Rust libraries passes unchanged, texts of posts included")
