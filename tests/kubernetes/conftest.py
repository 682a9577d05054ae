"""A cluster with the project's images and a Kafka beside it. `make test-kubernetes` says what may be named instead."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from moderation.dev.kafka import LocalKafka
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.node import GATEWAY, Node, names_in, own_node
from tests.kubernetes.programs import Unavailable, kubectl
from tests.support.terminal import say
from tests.support.topics import run_apart

IMAGES = {"moderation-api": "API_IMAGE", "moderation-worker": "WORKER_IMAGE"}
BROKER_PORT = 9094  # one that the NetworkPolicy lets out to
HELP = """\
Name the images: IMAGES=folder with their archives (docker save), or API_IMAGE and WORKER_IMAGE, which the cluster can
get. With IMAGE_LOAD (`kind load image-archive`, `minikube image load`) the archives of IMAGES are loaded first.
"""


@dataclass(frozen=True)
class Place:
    """Where the test takes place."""

    cluster: Cluster
    node: Node | None  # of a cluster of our own: what only its machine can do
    address: str  # of this machine, that pods reach
    images: dict[str, str]  # what the manifests call them -> what they are called here
    archives: Mapping[str, Path]  # of images, by name, that can be loaded
    loaded: set[Path]  # archives

    def load(self, archive: Path) -> None:
        """Its images, onto the nodes. Of a foreign cluster, only IMAGE_LOAD can."""
        if self.node:
            self.node.load(archive)
        elif load := os.environ.get("IMAGE_LOAD"):
            subprocess.run([*shlex.split(load), archive], check=True)
        self.loaded.add(archive)


@pytest.fixture(scope="session")
def place(pytestconfig: pytest.Config) -> Iterator[Place]:
    def progress(line: str) -> None:
        say(pytestconfig, line)

    folder = sorted(Path(os.environ["IMAGES"]).glob("*.tar")) if "IMAGES" in os.environ else []
    archives = {name: archive for archive in folder for name in names_in(archive)}
    images: dict[str, str] = {}
    for called, variable in IMAGES.items():
        image = os.environ.get(variable) or next((name for name in archives if called in name), "")
        assert image, f"no image {called}. {HELP}"
        images[called] = image
    first = sorted({archives[name] for name in images.values() if name in archives})
    if given := os.environ.get("KUBECONFIG"):
        address = os.environ.get("HOST_ADDRESS", "")
        assert address or os.environ.get("KAFKA_BOOTSTRAP_SERVERS"), (
            "set HOST_ADDRESS to an address of this machine that pods reach (of kind: its network's gateway), for a "
            "Kafka to listen on; or KAFKA_BOOTSTRAP_SERVERS to a Kafka that pods and this process reach"
        )
        place = Place(Cluster(kubectl(progress), Path(given)), None, address, images, archives, set())
        for archive in first:
            place.load(archive)
        yield place
        return
    try:
        with own_node(progress) as node:
            place = Place(node.cluster, node, GATEWAY, images, archives, set())
            for archive in first:
                progress(f"loading {archive.name}")
                place.load(archive)
            yield place
    except Unavailable as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(str(reason), pytrace=False)
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def broker(place: Place, request: pytest.FixtureRequest) -> Iterator[str]:
    """Bootstrap servers that pods and this process reach."""
    if given := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield given
        return
    request.getfixturevalue("local_kafka")
    local = LocalKafka(host=place.address, port=BROKER_PORT)
    run_apart(local.start())
    yield local.bootstrap
    run_apart(local.stop())
