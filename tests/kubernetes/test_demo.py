"""What deploy/README.md shows to try the service, word for word, on a cluster that has nothing but the images."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from moderation.dev.jars import KafkaUnavailable
from tests.kubernetes import images
from tests.kubernetes.cluster import DEPLOY, NAMESPACE, rendered
from tests.kubernetes.conftest import Place
from tests.support.repository import REPO
from tests.support.terminal import say

DEMO = DEPLOY / "combinations" / "demo"
PATIENCE_S = 900


@pytest.fixture
def shown() -> list[str]:
    """The page's commands for kubectl, from the one that applies the demo."""
    page = (REPO / "deploy" / "README.md").read_text("utf-8")
    (block,) = re.findall(r"```sh\n([^`]*combinations/demo\n[^`]*)```", page)
    return [line for line in block.splitlines() if line.startswith("kubectl ")]


@pytest.fixture
def bare(place: Place, pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Place]:
    """The cluster with the images under the names that the manifests have, and without the namespace."""
    pods = [
        manifest["spec"]["template"]["spec"]
        for manifest in rendered(place.cluster.kubectl, DEMO)
        if "template" in manifest.get("spec", {})
    ]
    wanted = {each["image"] for pod in pods for each in (*pod.get("initContainers", ()), *pod["containers"])}
    if images.KAFKA not in place.archives:
        wanted.discard(images.KAFKA)  # a foreign cluster has it, or gets it
        if place.node:
            try:
                place.load(images.kafka(tmp_path / "kafka.tar", lambda line: say(pytestconfig, line)))
            except KafkaUnavailable as reason:
                pytest.skip(str(reason))
    if missing := [name for name in sorted(wanted) if name not in place.archives]:
        pytest.skip(f"IMAGES has no {' and no '.join(missing)}, as the demo calls them")
    for archive in sorted({place.archives[name] for name in wanted} - place.loaded):
        place.load(archive)
    yield place
    # Kafka goes at once, and a worker that cannot leave its group takes all of its grace period.
    place.cluster.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=240s", timeout_s=270)


@pytest.mark.timeout(1800)
def test_the_demo_works_as_its_page_shows(bare: Place, shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    assert shown[0] == f"kubectl apply -k {DEMO.relative_to(REPO)}"
    answer = ""
    for line in shown:
        print(line, flush=True)
        answer = bare.cluster.run(*shlex.split(line)[1:], timeout_s=PATIENCE_S)
        print(answer, flush=True)
    assert "REMOVE FINAL by weapons-sale" in answer
