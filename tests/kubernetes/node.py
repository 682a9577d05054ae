"""A whole cluster of one node on this machine, for as long as a `with`: control plane, containerd, kubelet, proxy, DNS.

All of it lives in a network namespace of its own. A pair of interfaces joins that to the machine: pods reach a server
that listens on GATEWAY, and the machine reaches pods and Services. No port, route or firewall rule of others is moved.
Root is needed, and what NEEDED names.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.kubernetes import images
from tests.kubernetes.cluster import Cluster, Refused
from tests.kubernetes.control_plane import Certificates, api_server
from tests.kubernetes.dns import dns
from tests.kubernetes.processes import Program
from tests.kubernetes.programs import Unavailable, program
from tests.support.until import until

SPACE = "moderation-test"  # the network namespace
NODE, ADDRESS, GATEWAY = "n1", "10.99.0.1", "10.99.0.254"
PODS, SERVICES = "10.244.0.0/24", "10.96.0.0/16"
SOCKET = Path("/run/moderation-containerd.sock")
STATE = Path("/run/moderation-containerd")
RUNC = Path("/run/containerd/runc/k8s.io")  # where containerd has it keep what it knows
FOLDERS = Path("/var/tmp/moderation-nodes")  # noqa: S108  not in /tmp, which may be memory: images are large
LOCK = Path("/run/moderation-node.lock")
PLUGINS = Path("/usr/lib/cni")
NEEDED = {
    "containerd": "containerd", "ctr": "containerd", "runc": "runc", "iptables": "iptables", "conntrack": "conntrack",
    "ip": "iproute2", "nsenter": "util-linux", "sysctl": "procps",
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """The cluster, and what only its machine can do."""

    cluster: Cluster
    certificates: Certificates
    inside: Sequence[str]  # the command that goes before one that is to run where the control plane does

    def load(self, *archives: Path) -> None:
        """Images, as `docker save` writes them."""
        for archive in archives:
            _ctr("images", "import", str(archive))

    def kill(self, pod: str) -> None:
        """SIGKILL to the pod's container, as a machine out of memory would."""
        (status,) = self.cluster.get("pod", pod)["status"]["containerStatuses"]
        _ctr("tasks", "kill", "--signal", "SIGKILL", status["containerID"].removeprefix("containerd://"))


def check() -> None:
    """Raises Unavailable with the command that helps."""
    if sys.platform != "linux" or os.geteuid():
        raise Unavailable("a cluster of our own takes root on Linux; name another one with KUBECONFIG")
    missing = {package for command, package in NEEDED.items() if not shutil.which(command)}
    if not (PLUGINS / "bridge").exists():
        missing.add("containernetworking-plugins")
    if missing:
        raise Unavailable(f"a cluster of our own needs: apt-get install {' '.join(sorted(missing))}")


@contextlib.contextmanager
def own_node(progress: Callable[[str], object]) -> Iterator[Node]:
    """A node that is ready, and nothing on it. Raises Unavailable."""
    check()
    for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"):
        program(name, progress)
    inside = ("nsenter", f"--net=/run/netns/{SPACE}", "--")  # `ip netns exec` would hide /sys/fs/cgroup
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone())
        folder = Path(tempfile.mkdtemp(dir=FOLDERS))
        pause = images.pause(folder / "pause.tar", progress)
        stack.enter_context(_network(inside))
        cluster, certificates = stack.enter_context(_control_plane(folder, progress, inside))
        stack.enter_context(_containerd(folder, inside))
        node = Node(cluster, certificates, inside)
        node.load(pause)
        names = certificates.kubeconfig("dns", subject="dns", group="system:masters")
        stack.enter_context(dns(folder, progress, inside, names, ADDRESS))
        stack.enter_context(_programs(folder, progress, inside, certificates))

        def ready() -> bool:
            with contextlib.suppress(Refused):  # it has not registered yet
                return bool(cluster.run("wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=1s"))
            return False

        until(ready, 120, lambda: f"the node is not ready: see {folder / 'kubelet.log'}")
        yield node


@contextlib.contextmanager
def _network(inside: Sequence[str]) -> Iterator[None]:
    """The namespace, and the pair of interfaces that leads there."""
    _run("ip", "netns", "add", SPACE)
    try:
        _run("ip", "link", "add", "moderation0", "type", "veth", "peer", "name", "node0", "netns", SPACE)
        _run("ip", "address", "add", f"{GATEWAY}/24", "dev", "moderation0")
        _run("ip", "link", "set", "moderation0", "up")
        for link in ("lo", "node0"):
            _run(*inside, "ip", "link", "set", link, "up")
        _run(*inside, "ip", "address", "add", f"{ADDRESS}/24", "dev", "node0")
        _run(*inside, "ip", "route", "add", "default", "via", GATEWAY)
        _run(*inside, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for network in (PODS, SERVICES):
            _run("ip", "route", "add", network, "via", ADDRESS)
        yield
    finally:
        _run("ip", "netns", "delete", SPACE)  # and with it the interfaces, and the routes over them


@contextlib.contextmanager
def _control_plane(
    folder: Path, progress: Callable[[str], object], inside: Sequence[str]
) -> Iterator[tuple[Cluster, Certificates]]:
    # Who the API server is to the kubelet, for logs.
    client = folder / "certificates" / "kubelet-client"
    options = (
        "--authorization-mode=Node,RBAC",
        f"--kubelet-client-certificate={client}.crt",
        f"--kubelet-client-key={client}.key",
        f"--kubelet-certificate-authority={folder / 'certificates' / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",  # a name would be looked up in a DNS that is not there
    )
    with api_server(folder, progress, address=ADDRESS, inside=inside, options=options) as (cluster, certificates):
        yield cluster, certificates


@contextlib.contextmanager
def _containerd(folder: Path, inside: Sequence[str]) -> Iterator[None]:
    config = f"""\
version = 2
root = "{folder}/containerd"
state = "{STATE}"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{PLUGINS}"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""
    (folder / "containerd.toml").write_text(config)
    (folder / "cni").mkdir()
    bridge = {
        "type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True,
        "ipam": {
            "type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(folder / "cni-addresses"),
        },
    }  # fmt: skip
    (folder / "cni" / "10-pods.conflist").write_text(
        json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]})
    )
    command: list[str | Path] = [*inside, "containerd", "--config", folder / "containerd.toml"]
    with Program(command, folder / "containerd.log") as running:
        running.until(
            lambda: not subprocess.run(["ctr", "-a", SOCKET, "version"], capture_output=True, check=False).returncode
        )
        yield


@contextlib.contextmanager
def _programs(
    folder: Path, progress: Callable[[str], object], inside: Sequence[str], certificates: Certificates
) -> Iterator[None]:
    def config(name: str, subject: str, group: str | None = None, *names: str) -> Path:
        return certificates.kubeconfig(name, *names, subject=subject, group=group)

    controllers = config("controllers", "system:kube-controller-manager")
    scheduler = config("scheduler", "system:kube-scheduler")
    proxy = config("proxy", "system:kube-proxy")
    kubelet = config("kubelet", f"system:node:{NODE}", "system:nodes", ADDRESS, NODE)
    kinds = {
        "kubelet": {
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": f"unix://{SOCKET}", "cgroupDriver": "cgroupfs", "failSwapOn": False,
            "failCgroupV1": False, "resolvConf": "", "clusterDomain": "cluster.local", "clusterDNS": [ADDRESS],
            "authentication": {
                "anonymous": {"enabled": False}, "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(certificates.ca)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(kubelet.with_suffix(".crt")), "tlsPrivateKeyFile": str(kubelet.with_suffix(".key")),
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
        },
        "proxy": {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "iptables",
            "clusterCIDR": PODS, "clientConnection": {"kubeconfig": str(proxy)},
            # Limits of the whole machine, which tests must not set.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        },
    }  # fmt: skip
    for name, kind in kinds.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(kind))
    commands = {
        "kube-controller-manager": (
            f"--kubeconfig={controllers}", f"--authentication-kubeconfig={controllers}",
            f"--authorization-kubeconfig={controllers}", "--use-service-account-credentials=true",
            f"--service-account-private-key-file={folder / 'certificates' / 'accounts.key'}",
            f"--root-ca-file={certificates.ca}", "--leader-elect=false", "--bind-address=127.0.0.1",
            "--horizontal-pod-autoscaler-sync-period=5s",
        ),
        "kube-scheduler": (
            f"--kubeconfig={scheduler}", f"--authentication-kubeconfig={scheduler}",
            f"--authorization-kubeconfig={scheduler}", "--leader-elect=false", "--bind-address=127.0.0.1",
        ),
        "kubelet": (
            f"--config={folder / 'kubelet.yaml'}", f"--kubeconfig={kubelet}", f"--hostname-override={NODE}",
            f"--node-ip={ADDRESS}", f"--root-dir={folder / 'kubelet'}", f"--cert-dir={folder / 'kubelet' / 'pki'}",
        ),
        "kube-proxy": (f"--config={folder / 'proxy.yaml'}", f"--hostname-override={NODE}"),
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        for name, options in commands.items():
            command: list[str | Path] = [*inside, program(name, progress), *options]
            stack.enter_context(Program(command, folder / f"{name}.log"))
        yield


def _sweep() -> None:
    """What containerd leaves behind when it goes, or a run that was killed: shims and containers outlive it.

    Everything of this node is below STATE, or names STATE or SOCKET.
    """
    networks: set[str] = set()
    for task in (STATE / "io.containerd.runtime.v2.task" / "k8s.io").glob("*"):
        _run("runc", "--root", str(RUNC), "delete", "--force", task.name, check=False)
        with contextlib.suppress(FileNotFoundError):
            spaces = json.loads((task / "config.json").read_text())["linux"]["namespaces"]
            networks |= {Path(space["path"]).name for space in spaces if space["type"] == "network" and "path" in space}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if str(SOCKET).encode() in (process / "cmdline").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
    places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in sorted(places, reverse=True):
        if place.startswith((f"{STATE}/", f"{FOLDERS}/")):
            _run("umount", "--lazy", place)
    for network in {*networks, SPACE}:
        if Path("/run/netns", network).exists():
            _run("ip", "netns", "delete", network)
    for folder in (STATE, FOLDERS):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """There is one such cluster on a machine at a time, and whatever an earlier one left is gone."""
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable(f"another cluster of the tests runs on this machine ({LOCK} is held)") from None
        _sweep()
        FOLDERS.mkdir()
        try:
            yield
        finally:
            _sweep()


def _ctr(*arguments: str, check: bool = True) -> str:
    return _run("ctr", "--address", str(SOCKET), "--namespace", "k8s.io", *arguments, check=check)


def _run(*command: str, check: bool = True) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not (check and answer.returncode), f"{' '.join(command)}: {answer.stderr.strip()}"
    return answer.stdout


def names_in(archive: Path) -> list[str]:
    """The images' names in an archive."""
    with tarfile.open(archive) as file:
        manifest = file.extractfile("manifest.json")
        assert manifest, f"{archive} is no archive of images"
        return [name for image in json.load(manifest) for name in image["RepoTags"]]
