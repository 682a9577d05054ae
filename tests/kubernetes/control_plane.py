"""etcd and kube-apiserver, with certificates of their own: what `--dry-run=server` needs, and a node is added to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import trustme
import yaml

from moderation.dev.ports import free_ports
from tests.kubernetes.cluster import Cluster, Refused
from tests.kubernetes.processes import Program
from tests.kubernetes.programs import kubectl, program

SERVICES = "10.96.0.0/16"
FIRST_SERVICE = "10.96.0.1"  # of the API server itself


class Certificates:
    """Certificates of one cluster: files in a folder, and a kubeconfig for each user."""

    def __init__(self, folder: Path, server: str) -> None:
        self._folder = folder
        self._server = server
        self._ca = trustme.CA(organization_name="moderation tests")
        folder.mkdir(parents=True, exist_ok=True)
        self.ca = folder / "ca.crt"
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, file: str, *names: str, subject: str = "", group: str | None = None) -> tuple[Path, Path]:
        """(certificate, key), for addresses or host names, and for a user in a group."""
        # A name at least: trustme marks the list of them as critical, and Go refuses one that is critical and empty.
        issued = self._ca.issue_cert(
            *(names or (f"{file}.test",)), common_name=subject or file, organization_name=group
        )
        certificate, key = self._folder / f"{file}.crt", self._folder / f"{file}.key"
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return certificate, key

    def kubeconfig(self, file: str, *names: str, subject: str, group: str | None = None) -> Path:
        certificate, key = self.issue(file, *names, subject=subject, group=group)
        path = self._folder / f"{file}.kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": {"server": self._server, "certificate-authority": str(self.ca)}}],
            "users": [{"name": "me", "user": {"client-certificate": str(certificate), "client-key": str(key)}}],
            "contexts": [{"name": "here", "context": {"cluster": "it", "user": "me"}}],
            "current-context": "here",
        }
        path.write_text(yaml.safe_dump(config))
        return path


@contextlib.contextmanager
def api_server(
    folder: Path,
    progress: Callable[[str], object],
    *,
    address: str = "127.0.0.1",
    inside: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Iterator[tuple[Cluster, Certificates]]:
    """A server on that address, ready. `inside`: the command that goes before each, into a network namespace say."""
    programs = {name: program(name, progress) for name in ("etcd", "kube-apiserver")}
    port, clients, peers = free_ports(3)
    certificates = Certificates(folder / "certificates", f"https://{address}:{port}")
    names = ("127.0.0.1", FIRST_SERVICE, "kubernetes.default.svc", *([] if address == "127.0.0.1" else [address]))
    certificate, key = certificates.issue("server", *names)
    _, accounts = certificates.issue("accounts")
    certificates.issue("kubelet-client", subject="apiserver-kubelet-client", group="system:masters")
    front, front_key = certificates.issue("front-proxy")
    cluster = Cluster(kubectl(progress), certificates.kubeconfig("admin", subject="admin", group="system:masters"))
    store, peer = f"http://127.0.0.1:{clients}", f"http://127.0.0.1:{peers}"
    etcd: list[str | Path] = [
        *inside, programs["etcd"], "--unsafe-no-fsync", f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={store}", f"--advertise-client-urls={store}",
        f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}",
    ]  # fmt: skip
    server: list[str | Path] = [
        *inside, programs["kube-apiserver"], f"--etcd-servers={store}", f"--bind-address={address}",
        f"--advertise-address={address}", f"--secure-port={port}", f"--tls-cert-file={certificate}",
        f"--tls-private-key-file={key}", f"--client-ca-file={certificates.ca}",
        "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={accounts}",
        f"--service-account-signing-key-file={accounts}", f"--service-cluster-ip-range={SERVICES}",
        "--allow-privileged=true",
        # Towards servers that add to the API, as KEDA's metrics do.
        f"--proxy-client-cert-file={front}", f"--proxy-client-key-file={front_key}",
        f"--requestheader-client-ca-file={certificates.ca}", "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-", *options,
    ]  # fmt: skip

    def ready() -> bool:
        try:
            return cluster.run("get", "--raw", "/readyz") == "ok"
        except Refused:
            return False

    with Program(etcd, folder / "etcd.log"), Program(server, folder / "kube-apiserver.log") as running:
        running.until(ready)
        yield cluster, certificates
