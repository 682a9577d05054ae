"""A source of keys that misbehaves in any way means that the keys are not refreshed, in time, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.api import keys as keys_module
from moderation.api.auth import Authenticator, Credentials
from moderation.api.errors import RefusedError
from moderation.api.keys import MAX_STUCK, Keys, NotReadError
from moderation.errors import ConfigError
from moderation.settings import AuthSettings
from tests.support.key_server import (
    KeyServer,
    a_key,
    a_set,
    a_token,
    answer,
    asked,
    chunked,
    faults,
    key_server,
    nothing,
    sending,
)

KEY, OTHER = a_key(), a_key()
GOOD = a_set(first=KEY)
READ_S = 0.5
FAULTS = faults(GOOD)


@pytest.fixture(autouse=True)
def short_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "READ_S", READ_S)
    for name in ("https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KeyServer]:
    with key_server(tmp_path) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.ca))
        yield server


def keys_of(source: object, **changed: Any) -> Keys:
    return Keys(AuthSettings(jwt_keys=str(source), jwt_audience="a", jwt_issuer="i", **changed))


async def refresh(keys: Keys, done: Callable[[], bool]) -> list[str]:
    """Refreshes until `done`; returns the causes of the failures."""
    with capture_logs() as logs:
        task = asyncio.create_task(keys.refresh())
        async with asyncio.timeout(30):
            while not done() and not task.done():  # noqa: ASYNC110  what is awaited happens in a thread
                await asyncio.sleep(0.005)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert {line["event"] for line in logs} <= {"jwt_keys_not_refreshed"}
    return [line["cause"] for line in logs]


async def not_read(keys: Keys) -> str:
    """The cause of a reading that fails in time."""
    begun = time.monotonic()
    with pytest.raises(NotReadError) as caught:
        await keys._reading()
    assert time.monotonic() - begun < READ_S + 1
    return str(caught.value)


@pytest.mark.parametrize("framed", [answer, chunked, lambda body: b"HTTP/1.1 200 OK\r\n\r\n" + body])
async def test_keys_are_read_however_the_body_is_framed(server: KeyServer, framed: Callable[[bytes], bytes]) -> None:
    server.serve = sending(framed(GOOD))
    keys = keys_of(server.url)
    await keys.load()
    assert keys.find("first").key.public_numbers() == KEY.public_key().public_numbers()
    assert keys.find("second") is None
    assert keys.edition == 1


async def test_the_request_names_the_host_and_the_path(server: KeyServer) -> None:
    requests: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        requests.append(asked(connection))
        connection.sendall(answer(GOOD))

    server.serve = serve
    await keys_of(server.url).load()
    line, *headers = requests[0].decode().split("\r\n")
    assert line == "GET /keys?v=1 HTTP/1.1"
    assert f"Host: {server.url.split('/')[2]}" in headers
    assert "Connection: close" in headers


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_server_that_misbehaves_changes_nothing(server: KeyServer, fault: str) -> None:
    server.serve = sending(answer(GOOD))
    keys = keys_of(server.url, jwt_refresh_s=0.01)
    await keys.load()
    known = keys.find("first")
    server.serve = FAULTS[fault]
    assert (await not_read(keys)).isidentifier()  # a type's name, and nothing that the server has said
    before = server.accepted
    assert await refresh(keys, lambda: server.accepted > before + 1)
    assert keys.find("first") is known
    assert keys.edition == 1
    server.serve = sending(answer(a_set(second=OTHER)))
    await refresh(keys, lambda: keys.edition == 2)
    assert keys.find("first") is None  # a valid set has withdrawn it
    assert keys.find("second") is not None


@pytest.mark.parametrize("fault", ["cut chunks", "bad status", "deep JSON", "slow body", "silence", "no keys"])
async def test_a_start_without_keys_is_a_configuration_error(server: KeyServer, fault: str) -> None:
    server.serve = FAULTS[fault]
    begun = time.monotonic()
    with pytest.raises(ConfigError, match="MODERATION_AUTH__JWT_KEYS: cannot read keys"):
        await keys_of(server.url).load()
    assert time.monotonic() - begun < READ_S + 1


async def test_a_start_waits_for_a_server_that_is_away(server: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "RETRY_S", 0.01)
    server.serve = FAULTS["bad status"]
    keys = keys_of(server.url)
    with capture_logs() as logs:
        loading = asyncio.create_task(keys.load(30.0))
        async with asyncio.timeout(30):
            while server.accepted < 3:  # noqa: ASYNC110  what is awaited happens in a thread
                await asyncio.sleep(0.005)
        assert not loading.done()
        server.serve = sending(answer(GOOD))
        await loading
    assert keys.find("first") is not None
    assert {line["event"] for line in logs} == {"jwt_keys_not_refreshed"}
    with pytest.raises(ConfigError, match="cannot read keys"):
        await keys_of("/no/file").load(30.0)  # a file is there at the start, or never


async def test_a_handshake_that_hangs_or_fails(server: KeyServer) -> None:
    server.secure = False
    assert await not_read(keys_of(server.url)) == "TimeoutError"
    server.serve = lambda connection: connection.sendall(answer(GOOD))
    assert "SSL" in await not_read(keys_of(server.url))


async def test_a_server_that_accepts_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        address = listening.getsockname()
        with socket.create_connection(address), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(address)  # the queue is full: a further connection gets no answer
            assert await not_read(keys_of(f"https://127.0.0.1:{address[1]}/")) == "TimeoutError"
    assert await not_read(keys_of(f"https://127.0.0.1:{address[1]}/")) == "ConnectionRefusedError"


@pytest.mark.parametrize("names", [["other.example"], []])
async def test_a_wrong_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    with key_server(tmp_path, *names) as server:
        if names:
            monkeypatch.setenv("SSL_CERT_FILE", str(server.ca))  # else the CA is not trusted
        server.serve = sending(answer(GOOD))
        assert await not_read(keys_of(server.url)) == "SSLCertVerificationError"


@pytest.mark.parametrize(
    "url",
    ["https://", "https:///keys", "https://a:b@127.0.0.1/", "https://127.0.0.1:99999/", "https://[::1/", "https:x"],
)
async def test_an_invalid_address(url: str) -> None:
    assert await not_read(keys_of(url)) == "ValueError"


class Proxy:
    """An http proxy that opens a tunnel, or sends this response instead."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.answer = answer
        self.asked = b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://me:p%40ss@127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        near, _ = self._listening.accept()
        with near, suppress(OSError):
            self.asked = asked(near)
            if self.answer is not None:
                near.sendall(self.answer)
                nothing(near)
                return
            host, _, port = self.asked.split()[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as far:
                near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                up = threading.Thread(target=self._pass, args=(near, far))
                up.start()
                self._pass(far, near)
                up.join()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._thread.join(10)
        self._listening.close()


async def test_keys_are_read_through_the_proxy_of_the_environment(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve = sending(answer(GOOD))
    proxy = Proxy()
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    await keys_of(server.url).load()
    line, *headers = proxy.asked.decode().split("\r\n")
    assert line == f"CONNECT {server.url.split('/')[2]} HTTP/1.1"
    assert "Proxy-Authorization: Basic bWU6cEBzcw==" in headers
    await asyncio.to_thread(proxy.close)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    await keys_of(server.url).load()  # the proxy is gone


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "RefusedResponseError"),
        (b"HTTP/1.1 banana\r\n\r\n", "BadStatusLine"),
        (b"", "TimeoutError"),
    ],
)
async def test_a_proxy_that_misbehaves(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch, answer: bytes, cause: str
) -> None:
    proxy = Proxy(answer)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    assert await not_read(keys_of(server.url)) == cause
    await asyncio.to_thread(proxy.close)


@pytest.mark.parametrize(
    "content", [b"", b"-----BEGIN PUBLIC KEY-----\n", b"[" * 200_000, b'{"keys": []}', b" " * (2 << 20), b"\xff"]
)
async def test_a_file_that_is_broken_changes_nothing(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(GOOD)
    keys = keys_of(file, jwt_refresh_s=0.01)
    await keys.load()
    file.write_bytes(content)
    assert (await not_read(keys)).isidentifier()
    assert keys.find("first") is not None
    file.unlink()
    assert await not_read(keys) == "FileNotFoundError"
    file.write_bytes(a_set(second=OTHER))
    await refresh(keys, lambda: keys.edition == 2)
    assert keys.find("first") is None


async def test_hanging_readings_are_limited_and_later_readings_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "STUCK_S", 0.1)
    file, hanging = tmp_path / "keys.json", tmp_path / "hanging"
    file.write_bytes(GOOD)
    keys = keys_of(file)
    await keys.load()
    os.mkfifo(hanging)
    file.unlink()
    os.link(hanging, file)  # opening it hangs until something writes
    for _ in range(MAX_STUCK + 1):
        assert await not_read(keys) == "TimeoutError"
    assert await not_read(keys) == "EarlierReadingsHang"
    threads = [thread for thread in threading.enumerate() if thread.name == "jwt-keys"]
    assert len(threads) == MAX_STUCK + 1
    file.unlink()
    file.write_bytes(GOOD)
    hanging.write_bytes(b"")
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
    assert (await keys._reading()).content == GOOD


async def test_a_reading_without_a_thread_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(GOOD)
    keys = keys_of(file)
    await keys.load()
    threading.stack_size(1 << 47)  # more than there is, as for a process that has all the threads it may
    try:
        for _ in range(MAX_STUCK + 2):
            assert await not_read(keys) == "NoThread"
    finally:
        threading.stack_size(0)
    assert (await keys._reading()).content == GOOD


async def test_the_age_of_the_keys_is_counted_from_the_last_reading(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(GOOD)
    keys = keys_of(file, jwt_refresh_s=0.01, jwt_keys_max_age_s=0.2)
    await keys.load()
    assert not keys.expired
    file.write_bytes(b"")
    await refresh(keys, lambda: keys.expired)
    age = REGISTRY.get_sample_value("moderation_jwt_keys_age_seconds")
    assert age is not None
    assert 0.2 < age < 30
    file.write_bytes(GOOD)
    await refresh(keys, lambda: not keys.expired)
    assert keys.edition == 1  # the keys are the same


def encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


async def test_a_deep_or_endless_token_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(GOOD)
    authenticator = Authenticator(
        AuthSettings(jwt_keys=str(file), jwt_audience="moderation", jwt_issuer="https://id"), 0
    )
    assert authenticator.keys
    await authenticator.keys.load()
    header = encoded(b'{"alg": "ES256", "kid": "first"}')
    deep = b"[" * 5_000
    tokens = [f"{encoded(deep)}.e30.e30", f"{header}.{encoded(deep)}.e30"]
    tokens += [a_token(KEY, "first", exp=exp) for exp in (float("inf"), 10**400)]
    for token in tokens:
        credentials = Credentials("", authorization=(f"Bearer {token}",))
        with pytest.raises(RefusedError) as caught:
            authenticator.admit(credentials, "GetVerdict")
        assert caught.value.reason == "UNAUTHENTICATED"
