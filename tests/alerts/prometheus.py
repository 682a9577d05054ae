"""A real Prometheus that scrapes once a second, with the rules of deploy/observe/rules.yaml, `factor` times as fast."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.lookups import a_free_address
from tests.support.scaled_rules import scaled

NAMESPACE = "rig"
CONFIG = """
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [rules.yaml]
scrape_configs:
  - job_name: moderation
    file_sd_configs: [{files: [targets/*.json], refresh_interval: 1s}]
"""


class Prometheus:
    """See `prometheus`."""

    def __init__(self, listen: str, folder: Path, program: str) -> None:
        self._listen, self._folder = listen, folder
        head = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
        found = re.search(r"version ([\w.+-]+)", head.stdout + head.stderr)
        self.version = found[1] if found else "?"

    def targets(self, installation: str, targets: dict[tuple[str, str], str]) -> None:
        """Sets the targets of an installation: (role, instance) -> host:port. Labels are those of the PodMonitor."""
        groups = [
            {
                "targets": [listen],
                "labels": {
                    "namespace": NAMESPACE,
                    "installation": installation,
                    "job": f"moderation-{role}",
                    "instance": instance,
                },
            }
            for (role, instance), listen in targets.items()
        ]
        new = self._folder / f"{installation}.new"
        new.write_text(json.dumps(groups))
        new.rename(self._folder / "targets" / f"{installation}.json")

    async def firing(self, installation: str) -> list[dict[str, str]]:
        """The labels of each alert of the installation that fires."""
        return [alert["labels"] for alert in await self.alerts(installation) if alert["state"] == "firing"]

    async def alerts(self, installation: str) -> list[dict[str, Any]]:
        """The alerts of the installation that fire or are pending."""
        every = (await self.get("alerts"))["alerts"]
        return [alert for alert in every if alert["labels"].get("installation") == installation]

    async def get(self, path: str, **query: str) -> Any:
        """The data of an answer of its API."""
        asked = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        url = f"http://{self._listen}/api/v1/{path}?{asked}"

        def read() -> Any:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]

        return await asyncio.to_thread(read)


def program() -> str | None:
    """The path of Prometheus; None: this machine has none."""
    return shutil.which("prometheus")


@contextmanager
def _process(folder: Path, listen: str, factor: float) -> Iterator[subprocess.Popen[bytes]]:
    found = program()
    assert found, "checked before"
    (folder / "targets").mkdir(parents=True)
    (folder / "prometheus.yml").write_text(CONFIG)
    (folder / "rules.yaml").write_text(scaled(factor))
    files = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([found, *files, f"--web.listen-address={listen}"], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@asynccontextmanager
async def prometheus(folder: Path, factor: float) -> AsyncIterator[Prometheus]:
    """Runs one until the end of the block. `factor`: how many times as fast its rules are."""
    listen = a_free_address()
    with _process(folder, listen, factor) as process:
        server = Prometheus(listen, folder, str(program()))
        async with asyncio.timeout(60):
            while True:
                assert process.poll() is None, (folder / "prometheus.log").read_text()[-2000:]
                try:
                    await server.get("rules")
                    break
                except OSError:
                    await asyncio.sleep(0.1)
        yield server
