"""The service on a cluster: what an operator types, and waits for."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from moderation.settings import KafkaSettings
from tests.kubernetes import lookups
from tests.kubernetes.cluster import DEPLOY, NAMESPACE, Cluster, Manifest
from tests.support.until import until

POLICIES = DEPLOY.parents[1] / "policies" / "demo"
SERVICE_CONFIG = DEPLOY.parents[1] / "protos" / "service_config.json"
SERVICE, HEADLESS = f"api.{NAMESPACE}:50051", f"dns:///api-headless.{NAMESPACE}:50051"  # as protos/README.md has them
ROLES = ("worker", "api")
ROLLOUT_S = 300
SMALL = """\
- op: replace
  path: /spec/template/spec/containers/0/resources
  value: {requests: {cpu: 50m, memory: 256Mi}, limits: {memory: 2Gi}}
- {op: add, path: /spec/template/spec/containers/0/imagePullPolicy, value: IfNotPresent}
"""


class Deployment:
    """An overlay in a folder, as an adopter has one, with the demo's model; and the cluster it is applied to."""

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        images: Mapping[str, str],
        kafka: KafkaSettings,
        *,
        components: Sequence[str] = (),
        settings: Mapping[str, str] = MappingProxyType({}),
        patches: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.cluster = cluster
        self.folder = folder
        self.policies = folder / "policies"
        shutil.copytree(POLICIES, self.policies)
        settings = {
            "MODEL": "demo",
            "KAFKA__BOOTSTRAP": kafka.bootstrap,
            "KAFKA__POSTS_TOPIC": kafka.posts_topic,
            "KAFKA__VERDICTS_TOPIC": kafka.verdicts_topic,
            "KAFKA__GROUP": kafka.group,
            **settings,
        }
        demo = folder / "with-components"  # a component's settings come first
        demo.mkdir()
        (demo / "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    "resources": [os.path.relpath(DEPLOY / "base", demo)],
                    "components": [
                        os.path.relpath(path, demo)
                        for path in (POLICIES, *(DEPLOY / "components" / name for name in components))
                    ],
                }
            )
        )
        overlay = {
            "resources": [demo.name],
            "namespace": NAMESPACE,
            "images": [
                {"name": name, "newName": called.rpartition(":")[0], "newTag": called.rpartition(":")[2]}
                for name, called in images.items()
            ],
            "configMapGenerator": [
                {
                    "name": "settings",
                    "behavior": "merge",
                    "literals": [f"MODERATION_{name}={value}" for name, value in settings.items()],
                },
                {
                    "name": "policies",
                    "behavior": "replace",
                    "files": [f"policies/{path.name}" for path in sorted(self.policies.glob("*.yaml"))],
                },
            ],
            # Of a machine that runs all of it, the test included.
            "patches": [{"target": {"kind": "Deployment"}, "patch": SMALL}, *patches],
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))

    def apply(self) -> None:
        """What deploy/README.md says: kubectl apply -k."""
        self.cluster.run("apply", "-k", str(self.folder))

    def rolled_out(self, *roles: str) -> None:
        """Returns once every pod is new, ready and there."""
        for role in roles or ROLES:
            self.kubectl("rollout", "status", f"deployment/{role}", f"--timeout={ROLLOUT_S}s", timeout_s=ROLLOUT_S + 30)

    def kubectl(self, *arguments: str, timeout_s: float = 120) -> str:
        return self.cluster.run("-n", NAMESPACE, *arguments, timeout_s=timeout_s)

    def pods(self, role: str) -> list[Manifest]:
        pods: list[Manifest] = self.cluster.get("pods", "-l", f"app.kubernetes.io/name={role}")["items"]
        return pods

    def ready(self, role: str) -> list[str]:
        """Names of pods that are, and are not on their way out."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods(role)
            if "deletionTimestamp" not in pod["metadata"]
            and any(
                each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", ())
            )
        ]

    def waiting(self, role: str) -> set[str]:
        """Why containers do not run."""
        states = [each["state"] for pod in self.pods(role) for each in pod["status"].get("containerStatuses", ())]
        return {state["waiting"]["reason"] for state in states if "waiting" in state}

    def restarts(self) -> int:
        statuses = [
            each for role in ROLES for pod in self.pods(role) for each in pod["status"].get("containerStatuses", ())
        ]
        return sum(status["restartCount"] for status in statuses)

    def look_up(self, image: str, prefix: str, rate: float, script: Path = Path(lookups.__file__), *more: str) -> None:
        """Starts the pod that asks through the Service, and returns once it does."""
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "lookups", "namespace": NAMESPACE},
                "data": {script.name: script.read_text(), SERVICE_CONFIG.name: SERVICE_CONFIG.read_text()},
            },
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": "lookups",
                    "namespace": NAMESPACE,
                    "labels": {"moderation/lookups": "allowed"},
                },
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "restartPolicy": "Never",
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {
                            "name": "lookups",
                            "image": image,
                            "imagePullPolicy": "IfNotPresent",
                            "command": ["python3", f"/lookups/{script.name}", SERVICE, prefix, str(rate), *more],
                            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                            "volumeMounts": [{"name": "lookups", "mountPath": "/lookups"}],
                        }
                    ],
                    "volumes": [{"name": "lookups", "configMap": {"name": "lookups"}}],
                },
            },
        )
        until(lambda: bool(self.lookups().get("calls")), 120, lambda: f"no lookups: {self.kubectl('get', 'pods')}")

    def lookups(self) -> dict[str, Any]:
        """The last counts that the pod has printed."""
        phase = self.cluster.get("pod", "lookups")["status"]["phase"]
        if phase == "Pending":
            return {}
        lines = self.kubectl("logs", "lookups", "--tail=20").splitlines()
        printed = [line for line in lines if line.startswith("{")]
        assert phase == "Running", f"the pod of lookups is {phase}: {lines}"
        last: dict[str, Any] = json.loads(printed[-1]) if printed else {}
        return last

    def report(self) -> str:
        """For a test that failed: pods, events, and the ends of the logs."""
        parts = [
            self.kubectl("get", "pods,deployments,poddisruptionbudgets", "-o", "wide"),
            self.kubectl("get", "events", "--sort-by=.lastTimestamp"),
        ]
        for role in ROLES:
            parts += [
                f"{pod['metadata']['name']}:\n" + self.kubectl("logs", pod["metadata"]["name"], "--tail=15")
                for pod in self.pods(role)
                if any(each.get("started") for each in pod["status"].get("containerStatuses", ()))
            ]
        return "\n".join(parts)
