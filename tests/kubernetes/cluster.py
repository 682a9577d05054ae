"""A cluster as its users see it: kubectl, and manifests as data."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]
DEPLOY = Path(__file__).parents[2] / "deploy" / "kubernetes"
NAMESPACE = "moderation"


class Refused(Exception):
    """What kubectl or the server says against it."""


@dataclass(frozen=True)
class Cluster:
    """A server and the client for it."""

    kubectl: Path
    kubeconfig: Path

    def run(self, *arguments: str, input: str | None = None, timeout_s: float = 120) -> str:
        """What kubectl prints. Raises Refused."""
        return kubectl(self.kubectl, f"--kubeconfig={self.kubeconfig}", *arguments, input=input, timeout_s=timeout_s)

    def apply(self, *manifests: Manifest, dry: bool = False) -> str:
        """Server-side and strict: a field that the server does not know is refused."""
        options = ["--server-side", "--force-conflicts", "--validate=strict"] + ["--dry-run=server"] * dry
        return self.run("apply", *options, "-f", "-", input=dumped(manifests))

    def refusal(self, manifest: Manifest) -> str:
        """The server's reason against it. Raises AssertionError if there is none."""
        try:
            answer = self.apply(manifest, dry=True)
        except Refused as reason:
            return str(reason)
        raise AssertionError(f"it was taken: {answer}")

    def get(self, kind: str, *arguments: str) -> Manifest:
        """An object, or a list of them, of the namespace."""
        manifest: Manifest = json.loads(self.run("get", kind, *arguments, "-n", NAMESPACE, "-o", "json"))
        return manifest


def kubectl(tool: Path, *arguments: str, input: str | None = None, timeout_s: float = 120) -> str:
    """Raises Refused with what it says on stderr."""
    answer = subprocess.run(
        [tool, *arguments], input=input, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if answer.returncode:
        raise Refused(answer.stderr.strip())
    return answer.stdout


def rendered(tool: Path, folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` would apply. Raises Refused."""
    return [manifest for manifest in yaml.safe_load_all(kubectl(tool, "kustomize", str(folder))) if manifest]


def dumped(manifests: Iterable[Mapping[str, Any]]) -> str:
    return yaml.safe_dump_all(manifests, sort_keys=False)


def the_only(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """The one of that kind and name; of a generated name, the part before its hash."""
    matching = [each for each in manifests if each["kind"] == kind and named(each) == name]
    assert len(matching) == 1, f"{len(matching)} of {kind}/{name}"
    return matching[0]


def named(manifest: Manifest) -> str:
    name: str = manifest["metadata"]["name"]
    return name.rpartition("-")[0] if manifest["kind"] == "ConfigMap" else name
