"""Manifests rendered by kustomize, and a real API server to hold them against.

Both are built from Go modules where they are not at hand: minutes once, seconds from the cache. Where that cannot be,
what needs them is skipped, and the summary says so; in CI it fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import DEPLOY, Cluster, Manifest, rendered, the_only
from tests.kubernetes.control_plane import api_server
from tests.kubernetes.definitions import definitions
from tests.kubernetes.programs import Unavailable, kubectl, program
from tests.support.terminal import say, say_last

COLD_S = 1800  # a first run builds a control plane within a test's time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(COLD_S))


def absent(config: pytest.Config, reason: Unavailable) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(str(reason), pytrace=False)
    say_last(config, f"MANIFESTS NOT TESTED: {reason}")
    pytest.skip(str(reason))


@pytest.fixture(scope="session")
def kubectl_(pytestconfig: pytest.Config) -> Path:
    try:
        return kubectl(lambda line: say(pytestconfig, line))
    except Unavailable as reason:
        absent(pytestconfig, reason)
        raise


@pytest.fixture(scope="session")
def combinations(kubectl_: Path) -> dict[str, list[Manifest]]:
    """Each that is built, by name."""
    folders = sorted(path.parent for path in (DEPLOY / "combinations").glob("*/kustomization.yaml"))
    assert folders
    return {folder.name: rendered(kubectl_, folder) for folder in folders}


@pytest.fixture(scope="session")
def server(
    pytestconfig: pytest.Config,
    combinations: dict[str, list[Manifest]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """A real API server that knows the foreign resources and has our namespace. No controller acts on anything."""

    def progress(line: str) -> None:
        say(pytestconfig, line)

    try:
        files = definitions(progress)
        for name in ("etcd", "kube-apiserver"):
            program(name, progress)
    except Unavailable as reason:
        absent(pytestconfig, reason)
    # Without controllers no namespace gets its default account, and every pod would be refused for that.
    options = (
        "--authorization-mode=RBAC",
        "--endpoint-reconciler-type=none",
        "--disable-admission-plugins=ServiceAccount",
    )
    with api_server(tmp_path_factory.mktemp("api-server"), progress, options=options) as (cluster, _):
        named = [f"--filename={file}" for file in files]
        cluster.run("apply", "--server-side", *named)
        cluster.run("wait", "--for=condition=Established", "--timeout=60s", *named)
        cluster.apply(the_only(combinations["demo"], "Namespace", "moderation"))
        yield cluster


Render = Callable[[str], list[Manifest]]


@pytest.fixture
def render(kubectl_: Path, tmp_path: Path) -> Render:
    """What a kustomization of one's own comes to. In it, DEPLOY and POLICIES stand for the folders."""

    def render(text: str) -> list[Manifest]:
        folder = tmp_path / "own"
        folder.mkdir(exist_ok=True)
        up = os.path.relpath(DEPLOY, folder)  # an absolute path is nothing that kustomize takes
        text = text.replace("POLICIES", os.path.relpath(DEPLOY.parents[1] / "policies", folder)).replace("DEPLOY", up)
        (folder / "kustomization.yaml").write_text(text)
        return rendered(kubectl_, folder)

    return render
