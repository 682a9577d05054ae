"""The image behind every pod: a program that waits. Registries have it, and none is needed here."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.kubernetes.programs import held_cache, run_go

PAUSE = "moderation.test/pause:1"

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
    layer = _tar({"pause": binary})
    digest = hashlib.sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    ).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": name, "RepoTags": [PAUSE], "Layers": [f"{digest}/layer.tar"]}]).encode()
    archive.write_bytes(_tar({name: config, f"{digest}/layer.tar": layer, "manifest.json": manifest}))
    return archive


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
