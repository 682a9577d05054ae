"""Reads a JWKS over https, on a thread, with one deadline for the whole reading and a bound on its bytes.

urllib and http.client have a timeout for each read only: a server that sends one byte a second holds them for hours.
Here a socket gets the rest of the deadline as its timeout before each operation. http.client parses the response.
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
OVERHEAD_BYTES = 256 << 10  # for the status line, the headers and the sizes of chunks


class RefusedResponseError(OSError):
    """The response is not a key set: its status is not 200, it is a redirect, or it is too large."""


def fetch(url: str, until: float) -> bytes:
    """The body at an https URL. `until`: deadline on the monotonic clock. Honours HTTPS_PROXY and NO_PROXY.

    A redirect is refused: the settings name the only server that is trusted. TLS ends at the server, also with a proxy.
    Raises OSError, ValueError and http.client.HTTPException.
    """
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port or 443
    if not host or parts.username is not None or any(character <= " " for character in url):
        raise ValueError("not an https URL")
    with closing(_tunnel(host, port, until)) as plain:
        plain.settimeout(_left(until))
        # The timeout is for the whole handshake: the ssl module counts it down over its reads.
        with ssl.create_default_context().wrap_socket(plain, server_hostname=host) as secure:
            target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
            address = _authority(host, port) if parts.port else _authority(host, port).removesuffix(":443")
            headers = {"Host": address, "Accept": "application/json", "Accept-Encoding": "identity"}
            response = _request(secure, "GET", target, headers, until)
            if response.status != 200:
                raise RefusedResponseError
            content = response.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise RefusedResponseError
            if response.length:  # bytes that are missing: http.client does not report them for a bounded read
                raise IncompleteRead(b"", response.length)
            return content


def _tunnel(host: str, port: int, until: float) -> socket.socket:
    """A connection to the server, through the proxy of the environment if there is one."""
    proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get("https")
    if not proxy:
        return _connected(host, port, until)
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if through.scheme != "http" or not through.hostname:
        raise ValueError("HTTPS_PROXY is not an http URL")
    plain = _connected(through.hostname, through.port or 80, until)
    with ExitStack() as stack:
        stack.callback(plain.close)
        headers = {"Host": _authority(host, port), **_credentials(through)}
        if _request(plain, "CONNECT", _authority(host, port), headers, until).status != 200:
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
    """A connection to the first address of the host that accepts it. The resolver has its own time limit."""
    failure: OSError = TimeoutError()
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(_left(until))
            plain.connect(address)
        except OSError as error:
            plain.close()
            failure = error
        else:
            return plain
    raise failure


def _request(
    connection: socket.socket, method: str, target: str, headers: Mapping[str, str], until: float
) -> HTTPResponse:
    """Sends a request; returns the response with its headers read."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if method == "GET":
        lines.append("Connection: close")
    connection.settimeout(_left(until))
    connection.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii"))
    limited = _LimitedReader(connection, until)
    response = HTTPResponse(limited, method=method)  # type: ignore[arg-type]  # it needs only `makefile` of a socket
    response.begin()
    return response


class _LimitedReader(io.RawIOBase):
    """Reads a connection until a deadline, up to a number of bytes. http.client takes it for a socket."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection = connection
        self._until = until
        self._left_bytes = MAX_BYTES + OVERHEAD_BYTES

    def makefile(self, _: str) -> io.BufferedReader:
        """Like socket.makefile."""
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
