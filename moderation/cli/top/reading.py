"""One endpoint's /metrics at one moment."""

from __future__ import annotations

import http.client
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from moderation.errors import ConfigError

FETCH_S = 3.0
MAX_BYTES = 32 << 20

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]


@dataclass(frozen=True, slots=True)
class Reading:
    """The samples of one endpoint at one moment."""

    url: str
    at: float
    samples: Mapping[Key, float] = field(default_factory=dict)
    problem: str = ""  # why there are no samples

    @property
    def name(self) -> str:
        """The endpoint, as a user names it."""
        parts = urlsplit(self.url)
        return parts.netloc if parts.path in ("", "/", "/metrics") else self.url

    @property
    def info(self) -> Mapping[str, str]:
        """Role and version; empty if they are not known."""
        return next((dict(labels) for name, labels in self.samples if name == "moderation_build_info"), {})

    def values(self, name: str, role: str = "") -> Iterator[tuple[Mapping[str, str], float]]:
        """Labels and value of each sample of a metric; none if the endpoint is of another role."""
        if not role or self.info.get("role") == role:
            yield from ((dict(key[1]), value) for key, value in self.samples.items() if key[0] == name)


def address(endpoint: str) -> str:
    """The URL of the metrics of an endpoint: host:port, or a URL. Raises ConfigError."""
    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{endpoint}: neither host:port nor an http(s) URL")
    if parts.hostname in ("0.0.0.0", "::"):  # noqa: S104  a role listens there; a caller cannot connect to it
        url = url.replace("0.0.0.0", "127.0.0.1", 1).replace("[::]", "[::1]", 1)  # noqa: S104
    return url if parts.path not in ("", "/") else url.rstrip("/") + "/metrics"


def read(url: str) -> Reading:
    """Reads an endpoint. A failure is part of the result."""
    try:
        with urllib.request.urlopen(url, timeout=FETCH_S) as response:  # noqa: S310  http or https: see address
            text = response.read(MAX_BYTES).decode()
        return Reading(url, time.monotonic(), parse(text))
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None)
        cause = reason if isinstance(reason, OSError) else error
        return Reading(url, time.monotonic(), problem=str(getattr(cause, "strerror", None) or type(cause).__name__))
    except ValueError:
        return Reading(url, time.monotonic(), problem="no metrics there")


def parse(text: str) -> dict[Key, float]:
    """Samples by name and labels. Raises ValueError."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("moderation_")
    }
