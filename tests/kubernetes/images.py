"""Images that registries have, made here, so that none is needed: the one behind every pod, and Kafka's."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from moderation.dev.jars import VERSION, fetch_jars, find_java
from moderation.dev.kafka import JVM
from tests.kubernetes.programs import held_cache, run_go

PAUSE = "moderation.test/pause:1"
KAFKA = f"apache/kafka:{VERSION}"

SOURCE = """\
package main

import (
	"os"
	"os/signal"
	"syscall"
)

// It holds a pod's namespaces until it gets a signal, and takes the exit codes of orphans.
func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for received := range signals {
		if received != syscall.SIGCHLD {
			return
		}
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}
"""


def pause(archive: Path, progress: Callable[[str], object]) -> Path:
    """An archive of the image, written there. Raises Unavailable."""
    with held_cache() as cache:
        program = cache / "bin" / "pause"
        if not program.exists():
            progress("building the pause image")
            source = cache / "pause"
            source.mkdir(exist_ok=True)
            (source / "go.mod").write_text("module moderation.test/pause\n\ngo 1.25\n")
            (source / "main.go").write_text(SOURCE)
            run_go("build", "-trimpath", "-ldflags", "-s -w", "-o", str(program), ".", cwd=source)
        binary = program.read_bytes()
    layer = archive.with_suffix(".layer")
    with tarfile.open(layer, "w") as inside:
        _put(inside, "pause", binary)
    return _written(archive, PAUSE, layer, {"Entrypoint": ["/pause"], "User": "65535:65535"})


def kafka(archive: Path, progress: Callable[[str], object]) -> Path:
    """An archive of a stand-in for the image of Kafka, written there: the jars, Java and a shell of this machine.

    It has the two commands of Kafka that the manifests start, at their paths. Raises KafkaUnavailable.
    """
    java, jars, sh = find_java().resolve(), fetch_jars(progress), Path("/bin/sh").resolve()
    progress("making an image of Kafka")
    home = java.parents[1]
    layer = archive.with_suffix(".layer")
    with tarfile.open(layer, "w", dereference=True) as inside:
        inside.add(home, "opt/java")
        inside.add(jars, "opt/kafka/libs", filter=lambda entry: None if ".lock" in entry.name else entry)
        for name, main in {"kafka-storage": "kafka.tools.StorageTool", "kafka-server-start": "kafka.Kafka"}.items():
            script = (
                f"#!/bin/sh\nexec /opt/java/bin/java $KAFKA_HEAP_OPTS {' '.join(JVM)} -cp '/opt/kafka/libs/*' {main}"
            )
            _put(inside, f"opt/kafka/bin/{name}.sh", f'{script} "$@"\n'.encode())
        inside.add(sh, "bin/sh")
        native = [home / "lib" / "server" / "libjvm.so", *(home / "lib" / f"lib{name}.so" for name in ("nio", "net"))]
        for library in sorted({path for program in (sh, java, *native) for path in _libraries(program)}):
            if not library.is_relative_to(home):
                inside.add(library, str(library).lstrip("/"))
    return _written(archive, KAFKA, layer, {"Env": ["PATH=/bin", "LANG=C.UTF-8"], "User": "1000:1000"})


def _libraries(program: Path) -> list[Path]:
    """What the loader finds for it on this machine."""
    answer = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", answer.stdout)]


def _written(archive: Path, name: str, layer: Path, config: Mapping[str, object]) -> Path:
    """The archive with one image of one layer, as `docker save` writes it. The layer's file goes."""
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    described = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    called = f"{hashlib.sha256(described).hexdigest()}.json"
    with tarfile.open(archive, "w") as whole:
        _put(whole, called, described)
        whole.add(layer, f"{digest}/layer.tar")
        manifest = [{"Config": called, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
        _put(whole, "manifest.json", json.dumps(manifest).encode())
    layer.unlink()
    return archive


def _put(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o755
    archive.addfile(entry, io.BytesIO(content))
