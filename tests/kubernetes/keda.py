"""KEDA's own operator and metrics server, built from its Go module, beside a cluster of our own."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.kubernetes.cluster import Refused
from tests.kubernetes.definitions import KEDA
from tests.kubernetes.node import ADDRESS, Node
from tests.kubernetes.processes import Program
from tests.kubernetes.programs import command_of, module

NAMESPACE = "keda"
SERVICE = "keda-metrics-apiserver"
PORT = 16443  # of the metrics server
GRPC = "127.0.0.1:19666"  # where it asks the operator
HEALTH = f"{ADDRESS}:18081"


@contextlib.contextmanager
def keda(node: Node, folder: Path, progress: Callable[[str], object]) -> Iterator[None]:
    """Both, ready: ScaledObjects are acted on. Raises Unavailable."""
    operator, adapter = (command_of(*KEDA, f"cmd/{name}", progress) for name in ("operator", "adapter"))
    crds = sorted((module(*KEDA) / "config" / "crd" / "bases").glob("*.yaml"))
    node.cluster.run("apply", "--server-side", *(f"--filename={crd}" for crd in crds))
    admin = node.certificates.kubeconfig("keda", subject="keda", group="system:masters")
    folder.mkdir()
    names = ("127.0.0.1", ADDRESS, f"{SERVICE}.{NAMESPACE}.svc")
    certificate, key = node.certificates.issue("keda-server", *names)
    for source, name in ((certificate, "tls.crt"), (key, "tls.key"), (node.certificates.ca, "ca.crt")):
        (folder / name).write_bytes(source.read_bytes())
    around: list[str | Path] = [
        *node.inside, "env", f"KUBECONFIG={admin}", "WATCH_NAMESPACE=", f"POD_NAMESPACE={NAMESPACE}", "POD_NAME=keda",
        f"KEDA_CLUSTER_OBJECT_NAMESPACE={NAMESPACE}",
    ]  # fmt: skip
    node.cluster.apply(*_registration(node))
    operating: list[str | Path] = [
        *around, operator, f"--cert-dir={folder}", f"--metrics-service-bind-address={GRPC}",
        "--metrics-bind-address=127.0.0.1:18080", f"--health-probe-bind-address={HEALTH}",
        "--enable-webhook-patching=false", "--enable-apiservice-patching=false",
    ]  # fmt: skip
    serving: list[str | Path] = [
        *around, adapter, f"--cert-dir={folder}", f"--secure-port={PORT}", f"--metrics-service-address={GRPC}",
        f"--tls-cert-file={folder / 'tls.crt'}", f"--tls-private-key-file={folder / 'tls.key'}",
        f"--client-ca-file={folder / 'ca.crt'}", "--port=18082",
        *(f"--{name}-kubeconfig={admin}" for name in ("lister", "authentication", "authorization")),
    ]  # fmt: skip

    def registered() -> bool:
        with contextlib.suppress(Refused):
            service = json.loads(node.cluster.run("get", "apiservice", "v1beta1.external.metrics.k8s.io", "-o", "json"))
            return any(
                each["type"] == "Available" and each["status"] == "True" for each in service["status"]["conditions"]
            )
        return False

    def healthy() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{HEALTH}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    with (
        Program(operating, folder / "operator.log") as operates,
        Program(serving, folder / "adapter.log") as serves,
    ):
        operates.until(healthy)
        serves.until(registered)
        yield


def _registration(node: Node) -> list[dict[str, object]]:
    """The metrics server as a part of the API: a Service without a selector, that leads to where it runs."""
    named = {"name": SERVICE, "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": named,
            "spec": {"ports": [{"name": "https", "port": 443, "targetPort": PORT}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": named | {"labels": {"kubernetes.io/service-name": SERVICE}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}],
            "ports": [{"name": "https", "port": PORT, "protocol": "TCP"}],
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
            "spec": {
                "group": "external.metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"name": SERVICE, "namespace": NAMESPACE, "port": 443},
                "caBundle": b64encode(node.certificates.ca.read_bytes()).decode(),
            },
        },
    ]
