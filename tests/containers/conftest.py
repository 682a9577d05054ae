"""The images as black boxes: on a network that leads to this machine alone, and allowed as little as a pod.

They need a Docker engine on this machine and the images (`make images`). Where there are none they are skipped, and the
summary says so. Containers reach the tests' broker at the bridge's address, which a Linux engine has on this machine; a
desktop's engine lives in a virtual machine of its own, and is recognised by that.
"""

from __future__ import annotations

import gc
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import docker
import pytest
from docker.errors import DockerException, ImageNotFound
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from moderation.dev.kafka import LocalKafka
from moderation.errors import ConfigError
from tests.support.terminal import say_last
from tests.support.topics import run_apart

testcontainers_config.ryuk_disabled = True  # it would be one more image; these containers end with their `with`

IMAGES = {
    "api": os.environ.get("MODERATION_TEST_API_IMAGE", "moderation-api:dev"),
    "worker": os.environ.get("MODERATION_TEST_WORKER_IMAGE", "moderation-worker:cpu"),
}
SHELLS = ("/bin/sh", "/bin/bash", "/bin/dash")
SECOND = 1_000_000_000


def absent(config: pytest.Config, reason: str) -> NoReturn:
    say_last(config, f"IMAGES NOT TESTED: {reason}")
    pytest.skip(reason)


def connected() -> tuple[docker.DockerClient | None, str]:
    """A client of the engine, or none and why."""
    try:
        return docker.from_env(), ""
    except DockerException as error:
        why = type(error).__name__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its socket to the collector, who minds
        gc.collect()
    return None, why


@pytest.fixture(scope="session")
def engine(pytestconfig: pytest.Config) -> Iterator[docker.DockerClient]:
    """It answers, and has the images."""
    client, why = connected()
    if not client:
        absent(pytestconfig, f"no Docker engine answers ({why})")
    with client_closed(client):
        for name in IMAGES.values():
            try:
                client.images.get(name)
            except ImageNotFound:
                absent(pytestconfig, f"there is no image {name}: make images")
        yield client


@contextmanager
def client_closed(client: docker.DockerClient) -> Iterator[None]:
    try:
        yield
    finally:
        client.close()


@pytest.fixture(scope="session")
def network(engine: docker.DockerClient) -> Iterator[Network]:
    """An internal one: from it this machine is in reach, for its Kafka, and no other."""
    with Network(docker_network_kw={"internal": True}) as made:
        yield made


@pytest.fixture(scope="session")
def kafka(
    engine: docker.DockerClient, network: Network, local_kafka: None, pytestconfig: pytest.Config
) -> Iterator[str]:
    """Bootstrap servers that are the same address for the containers and for us."""
    (addresses,) = engine.networks.get(network.id).attrs["IPAM"]["Config"]
    local = LocalKafka(host=addresses["Gateway"])
    try:
        run_apart(local.start())
    except ConfigError as error:
        if "cannot listen on" not in str(error):
            raise
        absent(pytestconfig, f"the engine's bridge is not on this machine ({error})")
    yield local.bootstrap
    run_apart(local.stop())


class Box:
    """A container of one of the images, as locked in as the deployments make it, and its shells gone."""

    def __init__(self, engine: docker.DockerClient, container: DockerContainer) -> None:
        self._engine = engine
        self._started = int(time.time())
        self.container = container.get_wrapped_container()

    @property
    def address(self) -> str:
        """On the network that it shares with this machine."""
        self.container.reload()
        (only,) = self.container.attrs["NetworkSettings"]["Networks"].values()
        return str(only["IPAddress"])

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [json.loads(line) for line in self.container.logs().decode().splitlines() if line.startswith("{")]

    def wait_until_healthy(self) -> None:
        """Waits for the image's own health check. The test's timeout is the deadline."""
        self.container.reload()
        if self.container.attrs["State"]["Health"]["Status"] == "healthy":
            return
        wanted = {"container": self.container.id, "event": ["health_status", "die"]}
        for event in self._engine.events(since=self._started, filters=wanted, decode=True):
            if event["Action"] == "health_status: healthy":
                return
            assert event["Action"] != "die", self.container.logs().decode()

    def stop(self) -> int:
        """SIGTERM; its exit code. An engine that has to kill makes that 137."""
        self.container.stop(timeout=90)
        return int(self.container.wait()["StatusCode"])


@pytest.fixture
def box(engine: docker.DockerClient, network: Network) -> Callable[..., Any]:
    """`with box("worker", MODERATION_MODEL="demo") as worker`; user and volumes are the operator's to set."""

    @contextmanager
    def run(
        role: str,
        *,
        user: str = "",
        volumes: tuple[tuple[str, str], ...] = (),
        **environment: str,
    ) -> Iterator[Box]:
        options: dict[str, Any] = {
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "network": network,
            "pids_limit": 512,
            "healthcheck": {"interval": SECOND, "timeout": 6 * SECOND},  # the test of it is the image's own
        } | ({"user": user} if user else {})
        container = DockerContainer(IMAGES[role], env=environment, **options)
        for shell in SHELLS:
            container.with_volume_mapping("/dev/null", shell)
        for source, target in volumes:
            container.with_volume_mapping(source, target)
        container.with_tmpfs_mount("/tmp")  # noqa: S108  the container's
        if role == "api":
            container.with_tmpfs_mount("/var/lib/moderation")
        with container:
            yield Box(engine, container)

    return run
