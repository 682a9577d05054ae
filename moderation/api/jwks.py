"""Reads a JWKS by https, in a thread, with one deadline over all of it and a bound on its bytes.

urllib and http.client have a timeout for each read only: a server that sends a byte a second holds them for hours. Here
sockets get what is left of the deadline before each operation; http.client parses what they bring.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from contextlib import ExitStack, closing
from http.client import HTTPResponse, IncompleteRead
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

MAX_BYTES = 1 << 20
OVERHEAD_BYTES = 256 << 10  # of status line, headers, and the sizes of chunks


class RefusedResponseError(OSError):
    """The server answered with something other than a key set: another status, a redirect, too much."""


def fetch(url: str, until: float) -> bytes:
    """The body at an https URL; `until`: deadline on the monotonic clock. Goes through HTTPS_PROXY, unless NO_PROXY.

    A redirect is refused: the settings name the one place that is trusted. TLS ends at the server, also behind a proxy.
    Raises OSError, ValueError and http.client.HTTPException.
    """
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or 443
    if not host or parts.username is not None or any(character <= " " for character in url):
        raise ValueError("no https URL")
    with closing(_tunnel(host, port, until)) as plain:
        plain.settimeout(_left(until))
        # The handshake as a whole has that timeout: OpenSSL's module counts it down over its reads.
        with ssl.create_default_context().wrap_socket(plain, server_hostname=host) as secure:
            target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
            address = _authority(host, port) if parts.port else _authority(host, port).removesuffix(":443")
            headers = {"Host": address, "Accept": "application/json", "Accept-Encoding": "identity"}
            answer = _ask(secure, "GET", target, headers, until)
            if answer.status != 200:
                raise RefusedResponseError
            content = answer.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise RefusedResponseError
            if answer.length:  # what is missing; http.client does not say so of a read with a bound
                raise IncompleteRead(b"", answer.length)
            return content


def _tunnel(host: str, port: int, until: float) -> socket.socket:
    """A connection to the server, by the proxy of the environment if there is one."""
    proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get("https")
    if not proxy:
        return _connected(host, port, until)
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if through.scheme != "http" or not through.hostname:
        raise ValueError("HTTPS_PROXY: no http URL")
    plain = _connected(through.hostname, through.port or 80, until)
    with ExitStack() as stack:
        stack.callback(plain.close)
        headers = {"Host": _authority(host, port), **_credentials(through)}
        if _ask(plain, "CONNECT", _authority(host, port), headers, until).status != 200:
            raise RefusedResponseError
        stack.pop_all()
    return plain


def _credentials(proxy: SplitResult) -> Mapping[str, str]:
    if proxy.username is None:
        return {}
    words = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(words.encode()).decode()}"}


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _connected(host: str, port: int, until: float) -> socket.socket:
    """To the first of its addresses that takes us. The resolver has limits of its own."""
    failed: OSError = TimeoutError()
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(_left(until))
            plain.connect(address)
        except OSError as error:
            plain.close()
            failed = error
        else:
            return plain
    raise failed


def _ask(connection: socket.socket, method: str, target: str, headers: Mapping[str, str], until: float) -> HTTPResponse:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if method == "GET":
        lines.append("Connection: close")
    connection.settimeout(_left(until))
    connection.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii"))
    answer = HTTPResponse(_Timed(connection, until), method=method)  # type: ignore[arg-type]  # needs no more of a socket
    answer.begin()
    return answer


class _Timed(io.RawIOBase):
    """What comes from a connection until the deadline, and so much at most; what http.client takes for a socket."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection = connection
        self._until = until
        self._left_bytes = MAX_BYTES + OVERHEAD_BYTES

    def makefile(self, _: str) -> io.BufferedReader:
        """As socket.makefile does."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(_left(self._until))
        count = self._connection.recv_into(buffer)
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise RefusedResponseError
        return count


def _left(until: float) -> float:
    """Seconds until the deadline. Raises TimeoutError when it has passed."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
