"""The runbook's commands of kubectl, as typed, on a real API server that has the service's objects.

No kubelet runs there: a command that needs one gets as far as that, and says so. A wrong name, option or namespace is
refused before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.kubernetes.cluster import Cluster, Manifest, Refused, the_only
from tests.support import runbook

POD = "worker-1"
COMMANDS = runbook.commands("kubectl")
# What is missing on a server alone. The log of a pod that has not run is empty.
FARTHEST = {
    "exec": "does not have a host assigned",
    "port-forward": "pod is not running",
    "rollout undo": "no rollout history found",
}


def pods(deployments: list[Manifest]) -> list[Manifest]:
    """One of each, as its Deployment would make it."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{name}-1", "namespace": "moderation", "labels": template["metadata"]["labels"]},
            "spec": template["spec"],
        }
        for name, template in ((each["metadata"]["name"], each["spec"]["template"]) for each in deployments)
    ]


@pytest.fixture(scope="module")
def installed(server: Cluster, combinations: dict[str, list[Manifest]]) -> Iterator[Cluster]:
    deployments = [the_only(combinations["demo"], "Deployment", role) for role in ("worker", "api")]
    scaled = the_only(combinations["remote"], "ScaledObject", "worker")
    monitoring = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "monitoring"}}
    server.apply(*deployments, scaled, monitoring, *pods(deployments))
    yield server
    server.run("-n", "moderation", "delete", "--ignore-not-found", "deployment/worker", "deployment/api",
               "scaledobject/worker", "pod/worker-1", "pod/api-1")  # fmt: skip


def rolled_out(server: Cluster) -> None:
    """Both Deployments, as their controller would report them at the end of a rollout."""
    for name in ("worker", "api"):
        wanted = server.get("deployment", name)
        replicas = wanted["spec"]["replicas"]
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas)
        status = {"observedGeneration": wanted["metadata"]["generation"], **counts}
        server.run("-n", "moderation", "patch", "deployment", name, "--subresource=status", "--type=merge",
                   "--patch", json.dumps({"status": status}))  # fmt: skip


@pytest.mark.parametrize("command", list(dict.fromkeys(COMMANDS)))
def test_a_command_runs_as_typed(command: str, installed: Cluster) -> None:
    words = runbook.typed(command, {"POD": POD})[1:]
    rolled_out(installed)
    verb = " ".join(words[words.index("-n") + 2 :]) if "-n" in words else " ".join(words)
    farthest = next((message for begin, message in FARTHEST.items() if verb.startswith(begin)), None)
    if farthest is None:
        print(installed.run(*words))
        return
    with pytest.raises(Refused, match=farthest):
        installed.run(*words)


def test_workers_stop_and_start_again_by_the_annotation_of_keda(installed: Cluster) -> None:
    stop, start = [command for command in COMMANDS if " annotate scaledobject " in command]
    for command, paused in ((stop, "0"), (start, None)):
        installed.run(*runbook.typed(command, {})[1:])
        annotations = installed.get("scaledobject", "worker")["metadata"].get("annotations", {})
        assert annotations.get("autoscaling.keda.sh/paused-replicas") == paused
