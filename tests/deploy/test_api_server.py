"""A real API server takes every combination, with admission and the makers' definitions, and refuses what is wrong."""

from __future__ import annotations

import copy
import functools
import json
import operator
from typing import Any, NamedTuple

import pytest

from tests.kubernetes.cluster import Cluster, Manifest, the_only

Combinations = dict[str, list[Manifest]]
GONE = object()


@pytest.mark.parametrize("name", ["demo", "hub", "remote", "sasl", "strimzi"])
def test_the_server_takes_the_combination(name: str, combinations: Combinations, server: Cluster) -> None:
    assert set(combinations) == {"demo", "hub", "remote", "sasl", "strimzi"}, "name the new one above"
    taken = server.apply(*combinations[name], dry=True).splitlines()
    assert len(taken) == len(combinations[name])
    assert all(line.endswith("serverside-applied (server dry run)") for line in taken)


@pytest.mark.parametrize("name", ["demo", "hub", "remote", "sasl", "strimzi"])
@pytest.mark.parametrize("role", ["worker", "api"])
def test_its_pods_are_admitted(name: str, role: str, combinations: Combinations, server: Cluster) -> None:
    """Pod Security holds pods, not the Deployments that make them: so the template, as a pod."""
    assert "created" in server.run(
        "create", "--dry-run=server", "--validate=strict", "-f", "-", input=json.dumps(_pod(combinations[name], role))
    )


class Wrong(NamedTuple):
    """A value in an object of a combination, and what the server says against it."""

    what: str
    combination: str
    object: str  # a Pod is the template of that Deployment
    path: str
    value: Any
    reason: str


WRONG = [
    ("root", "demo", "Pod/worker", "spec.securityContext.runAsNonRoot", False, "runAsNonRoot != true"),
    ("as user 0", "demo", "Pod/api", "spec.securityContext.runAsUser", 0, "runAsUser=0"),
    ("more rights", "demo", "Pod/api", "spec.containers.0.securityContext.allowPrivilegeEscalation", True,
     "allowPrivilegeEscalation != false"),
    ("a folder of the node", "demo", "Pod/worker", "spec.volumes.0", {"name": "tmp", "hostPath": {"path": "/"}},
     'restricted volume types'),
    ("no seccomp", "demo", "Pod/worker", "spec.securityContext.seccompProfile", GONE, "seccompProfile"),
    ("a misspelt field", "demo", "Deployment/worker", "spec.template.spec.terminationGracePeriod", 120,
     "field not declared in schema"),
    ("a bad quantity", "demo", "Deployment/api", "spec.template.spec.containers.0.resources.limits.memory", "1 GB",
     "quantities must match the regular expression"),
    ("no selector", "demo", "Deployment/worker", "spec.selector", GONE, "spec.selector: Required value"),
    ("a selector of others", "demo", "Deployment/api", "spec.selector.matchLabels", {"app": "x"},
     "`selector` does not match template `labels`"),
    ("neither old nor new", "demo", "Deployment/worker", "spec.strategy.rollingUpdate.maxUnavailable", 0,
     "may not be 0 when `maxSurge` is 0"),
    ("a port without a name", "demo", "Deployment/worker",
     "spec.template.spec.containers.0.livenessProbe.httpGet.port", 0, "must be between 1 and 65535"),
    ("both budgets", "demo", "PodDisruptionBudget/api", "spec.minAvailable", 1,
     "minAvailable and maxUnavailable cannot be both set"),
    ("a budget of another kind", "demo", "PodDisruptionBudget/api", "spec.unhealthyPodEvictionPolicy", "Always",
     'supported values: "AlwaysAllow", "IfHealthyBudget"'),
    ("a port range upside down", "demo", "NetworkPolicy/kafka", "spec.egress.0.ports.0.endPort", 80,
     "must be greater than or equal to `port`"),
    ("a limit below the request", "demo", "Deployment/api", "spec.template.spec.containers.0.resources.requests.memory",
     "2Gi", "must be less than or equal to memory limit"),
    ("half a GPU", "strimzi", "Deployment/worker",
     "spec.template.spec.containers.0.resources.limits", {"nvidia.com/gpu": "500m"}, "must be an integer"),
    ("an image volume pulled at times", "sasl", "Deployment/worker",
     "spec.template.spec.volumes.*weights.image.pullPolicy", "Sometimes", "Unsupported value"),
    ("no trigger", "strimzi", "ScaledObject/worker", "spec.triggers", GONE, "spec.triggers: Required value"),
    ("no target", "strimzi", "ScaledObject/worker", "spec.scaleTargetRef", GONE, "spec.scaleTargetRef: Required value"),
    ("a threshold that is no text", "strimzi", "ScaledObject/worker", "spec.triggers.0.metadata.lagThreshold", 200,
     "expected string"),
    ("no partitions", "strimzi", "KafkaTopic/posts", "spec.partitions", 0, "should be greater than or equal to 1"),
    ("no copies", "strimzi", "KafkaTopic/posts", "spec.replicas", 0, "should be greater than or equal to 1"),
    ("a user of no kind", "strimzi", "KafkaUser/moderation-worker", "spec.authentication.type", "password",
     "Unsupported value"),
    ("a right that is none", "strimzi", "KafkaUser/moderation-worker", "spec.authorization.acls.0.operations",
     ["Peek"], "Unsupported value"),
    ("an interval that is none", "strimzi", "PodMonitor/moderation", "spec.podMetricsEndpoints.0.interval", "15",
     "should match"),
]  # fmt: skip


@pytest.mark.parametrize("wrong", [Wrong(*row) for row in WRONG], ids=[row[0] for row in WRONG])
def test_the_server_refuses(wrong: Wrong, combinations: Combinations, server: Cluster) -> None:
    manifests, (kind, name) = combinations[wrong.combination], wrong.object.split("/")
    right = _pod(manifests, name) if kind == "Pod" else the_only(manifests, kind, name)
    refusal = server.refusal(_with(right, wrong.path, wrong.value))
    print(f"{wrong.what}: {refusal}")
    assert wrong.reason in refusal


def _pod(manifests: list[Manifest], role: str) -> Manifest:
    template = the_only(manifests, "Deployment", role)["spec"]["template"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": role, "namespace": "moderation", "labels": template["metadata"]["labels"]},
        "spec": template["spec"],
    }


def _with(right: Manifest, path: str, value: Any) -> Manifest:
    """A copy with another value there. A step is a key, a number, or *name of a member of a list."""
    wrong = copy.deepcopy(right)
    *way, last = path.split(".")
    place: Any = functools.reduce(_step, way, wrong)
    if value is GONE:
        del place[last]
    else:
        place[int(last) if last.isdigit() else last] = value
    return wrong


def _step(place: Any, step: str) -> Any:
    if step.startswith("*"):
        (member,) = [each for each in place if each["name"] == step[1:]]
        return member
    return operator.getitem(place, int(step) if step.isdigit() else step)
