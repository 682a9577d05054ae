"""A real PgBouncer in transaction pooling: each transaction of a client gets another connection of the server."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from moderation.dev.ports import free_ports
from tests.support.processes import end

START_S = 10.0
CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
min_pool_size = 4
default_pool_size = 4
server_round_robin = 1
logfile = {folder}/log
"""


def binary() -> str | None:
    """Where the command is; None: it is not installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def running(url: str) -> Iterator[str]:
    """The URL of the same databases through a PgBouncer. `url`: of the server, without a database."""
    parts = urlsplit(url)
    (listen,) = free_ports(1)
    folder = Path(tempfile.mkdtemp(prefix="moderation-pgbouncer-"))
    server = {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password}
    file = folder / "pgbouncer.ini"
    file.write_text(CONFIGURATION.format(**server, listen=listen, folder=folder))
    command = [binary() or "pgbouncer", str(file)]
    if os.getuid() == 0:  # as which PgBouncer will not run
        nobody = pwd.getpwnam("nobody")
        for path in (folder, file):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        command[1:1] = ["-u", "nobody"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while True:
            assert process.poll() is None, "PgBouncer has ended"
            assert time.monotonic() < deadline, "PgBouncer does not answer"
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", listen)) == 0:
                    break
            time.sleep(0.02)  # no event says that it takes connections
        yield f"postgresql://{parts.username}:{parts.password}@127.0.0.1:{listen}"
    finally:
        end(process)
        shutil.rmtree(folder)
