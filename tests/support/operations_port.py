"""The operations port of a role, as Prometheus and the kubelet see it."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from prometheus_client.parser import text_string_to_metric_families

from moderation.settings import OpsSettings
from tests.support.lookups import a_free_address


def ask(listen: str, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and body; on any thread."""
    request = urllib.request.Request(f"http://{listen}{path}", method=method, headers=dict(headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Port:
    """The operations port of a role in this process."""

    def __init__(self) -> None:
        self.settings = OpsSettings(listen=a_free_address())

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body; status 0: the role has not opened the port yet."""
        try:
            return await asyncio.to_thread(ask, self.settings.listen, path)
        except urllib.error.URLError:
            return 0, ""

    async def well(self, path: str) -> None:
        """Returns once the probe at this path succeeds."""
        async with asyncio.timeout(60):
            while (await self.get(path))[0] != 200:
                pass

    async def value(self, name: str, /, **labels: str) -> float:
        """The sum of the samples with these labels."""
        _, text = await self.get("/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def until(self, condition: Callable[[float], bool], name: str, /, **labels: str) -> float:
        """Its value once the condition holds."""
        async with asyncio.timeout(60):
            while not condition(value := await self.value(name, **labels)):
                pass
        return value
