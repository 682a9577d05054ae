"""`make demo` behind a proxy with an authority of its own: pip, uv and the Kafka jars trust what the machine trusts.

The proxy here is a real one: it ends each TLS connection itself, with a certificate of its authority, and answers every
request with 404. A request that it can read is one whose client trusts the authority.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trustme

REPO = Path(__file__).parents[3]
HOSTS = ("pypi.org", "repo.maven.apache.org")
TRUSTED = Path(ssl.get_default_verify_paths().openssl_cafile).resolve()  # by this machine
# A target beside those of the Makefile, which prints what a recipe has.
PROBE = "probe: ; @$(CERTIFICATES) echo $$SSL_CERT_FILE; echo $$PIP_CERT; echo $$REQUESTS_CA_BUNDLE\n"
NAMES = ("SSL_CERT", "PIP_", "UV_", "REQUESTS_", "CURL_", "KAFKA_", "MODERATION_", "XDG_", "MAKE")
PROXIES = ("HTTP", "http", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy")


class Proxy:
    """Answers CONNECT, and what comes then, in threads. `agents`: the programs whose requests it could read."""

    def __init__(self, authority: trustme.CA) -> None:
        self.agents: set[str] = set()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*HOSTS).configure_cert(self._tls)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            connection.settimeout(30)
            read_head(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with self._tls.wrap_socket(connection, server_side=True) as inside:
                head = read_head(inside)
                agent = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"user-agent:")), b"")
                self.agents.add(agent.removeprefix(b"user-agent:").strip().split(b"/")[0].decode())
                inside.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    def close(self) -> None:
        self._listener.close()


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and (part := connection.recv(4096)):
        head += part
    return head


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """The certificate of the proxy's authority. It is the only one that is trusted where its file is named."""
    return tmp_path / "authority.pem"


@pytest.fixture
def proxy(authority: Path) -> Iterator[Proxy]:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(authority)
    proxy = Proxy(ca)
    yield proxy
    proxy.close()


def made(target: str, folder: Path, *before: str, **environment: str) -> tuple[int, str]:
    """Exit code of make, and what it prints, in an environment of its own at `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NAMES + PROXIES)}
    own = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
        "UV_CACHE_DIR": str(folder / "uv-cache"),  # empty
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    command = (*before, "make", "-f", "Makefile", "-f", "-", "--silent", target, f"VENV={folder}")
    done = subprocess.run(
        (*command, f"PYTHON={sys.executable}"),
        cwd=REPO,
        env=kept | own | environment,
        input=PROBE,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    print(done.stdout + done.stderr)
    return done.returncode, done.stdout


@pytest.mark.skipif(not shutil.which("unshare"), reason="another store of the system needs Linux and unshare")
def test_the_systems_authorities_are_trusted(tmp_path: Path, proxy: Proxy, authority: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode or not TRUSTED.is_file():
        pytest.skip("this machine permits no mounts of one's own")
    unshared = ("unshare", "-rm", "sh", "-c", f'mount --bind "{authority}" "{TRUSTED}" && exec "$@"', "sh")
    venv = tmp_path / "venv"
    assert made(f"{venv}/bin/uv", venv, *unshared, HTTPS_PROXY=proxy.url)[0], "this proxy has nothing"
    assert proxy.agents == {"pip"}
    shutil.copy(Path(sys.prefix) / "bin/uv", venv / "bin/uv")  # what pip would have brought
    assert made(f"{venv}/dev.ok", venv, *unshared, HTTPS_PROXY=proxy.url)[0]
    assert proxy.agents == {"pip", "uv"}
    (venv / "bin/moderation").symlink_to(Path(sys.prefix) / "bin/moderation")  # what uv would have brought
    (venv / "dev.ok").touch()
    assert made("demo", venv, *unshared, HTTPS_PROXY=proxy.url)[0]
    assert proxy.agents == {"pip", "uv", "python-requests"}


@pytest.mark.parametrize("named_by", ["SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "PIP_CONFIG_FILE"])
def test_a_file_counts_for_all_that_is_fetched(tmp_path: Path, authority: Path, named_by: str) -> None:
    configuration = tmp_path / "pip.conf"
    configuration.write_text(f"[global]\ncert = {authority}\n")
    value = configuration if named_by == "PIP_CONFIG_FILE" else authority
    _, printed = made("probe", Path(sys.prefix), **{named_by: str(value)})
    assert printed.splitlines() == [str(authority)] * 3


def test_each_program_has_its_own_file() -> None:
    own = dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"), "") | {
        "PIP_CERT": "/p",
        "SSL_CERT_FILE": "/s",
    }
    assert made("probe", Path(sys.prefix), **own)[1].splitlines() == ["/s", "/p", "/s"]
