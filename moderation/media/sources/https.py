"""Images on web servers, by https:// references to listed hosts.

Users write the references, and may control what a server answers:

- Each address is checked when it is dialled, whatever name, answer of a name server or redirect led to it.
- Redirects are followed one by one. Each is checked as a reference is.
- Time, decoded bytes, headers and redirects are bounded.
- Nothing of the environment or of earlier answers is sent: no proxy, no netrc, no cookies, no referrer.
"""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from aiohttp import (
    AddrInfoType,
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientError,
    ClientPayloadError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from moderation import __version__
from moderation.errors import ConfigError, PostError
from moderation.media.sources.addresses import is_public
from moderation.media.sources.https_urls import Hosts
from moderation.settings import MediaSettings
from moderation.types import Detail, Reason

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 3
LOOKUPS = 8  # names that are looked up at once
HEADERS = {
    "User-Agent": f"moderation/{__version__}",
    "Accept": "image/avif,image/webp,image/apng,image/*,*/*;q=0.8",  # as browsers ask: servers choose a format by it
    "Accept-Encoding": "identity",
}


class HttpsServers:
    """Reads https:// references to listed hosts."""

    def __init__(
        self,
        settings: MediaSettings,
        *,
        resolver: AbstractResolver | None = None,
        may_dial: Callable[[str], bool] = is_public,
    ) -> None:
        """may_dial: whether an address may be connected to. resolver: of host names; default: the system's.

        Raises ConfigError for a host that is no name, or an unreadable file of certificates.
        """
        self._hosts = Hosts(settings.https_hosts)
        self._max_bytes = settings.max_bytes
        self._timeout_s = min(settings.https_timeout_s, settings.timeout_s)  # the second bounds all images of a post
        self._tls = _tls(settings)
        self._resolver = resolver or _Names()
        self._may_dial = may_dial
        self._session: ClientSession | None = None

    async def read(self, uri: str) -> bytes:
        """See MediaSource. Raises TimeoutError after media.https_timeout_s."""
        url = self._hosts.url(uri)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._read(url)
        except ClientConnectorCertificateError:
            text = "the certificate is not valid for the host (MODERATION_MEDIA__HTTPS_CA_FILE adds authorities)"
            raise PostError(Reason.IMAGE_UNAVAILABLE, text, detail=Detail.CERTIFICATE) from None
        except ClientConnectorError as error:
            if isinstance(error.os_error, _NotPublicError):
                text = "the host's address is not on the public internet"
                raise PostError(Reason.IMAGE_FORBIDDEN, text, detail=Detail.ADDRESS) from None
            raise PostError(Reason.IMAGE_UNAVAILABLE, "the server is not reached") from None
        except ClientError:
            raise PostError(Reason.IMAGE_UNAVAILABLE, "the server's answer is not HTTP, or it ended early") from None

    async def close(self) -> None:
        """See MediaSource."""
        if self._session is not None:
            await self._session.close()
        await self._resolver.close()

    async def _read(self, url: URL) -> bytes:
        """A transfer that ends early is tried once more."""
        try:
            return await self._get(url)
        except ClientPayloadError:
            return await self._get(url)

    async def _get(self, url: URL) -> bytes:
        """Follows redirects."""
        for _ in range(1 + MAX_REDIRECTS):
            async with self._open().get(url, allow_redirects=False) as response:
                location = response.headers.get("Location")
                if response.status not in REDIRECTS or location is None:
                    return await self._body(response)
            url = self._hosts.url(location, url)
        text = f"the server redirects more than {MAX_REDIRECTS} times"
        raise PostError(Reason.IMAGE_FORBIDDEN, text, detail=Detail.REDIRECTS)

    async def _body(self, response: ClientResponse) -> bytes:
        if response.status in (404, 410):
            raise PostError(Reason.IMAGE_NOT_FOUND, "the server has no such file")
        if response.status not in (200, 203):
            text = f"the server answers with status {response.status}"
            raise PostError(Reason.IMAGE_UNAVAILABLE, text, detail=Detail.HTTP_STATUS)
        file = io.BytesIO()
        too_large = (response.content_length or 0) > self._max_bytes
        while not too_large and (chunk := await response.content.readany()):
            file.write(chunk)
            too_large = file.tell() > self._max_bytes  # of decoded bytes
        if too_large:
            raise PostError(Reason.IMAGE_TOO_LARGE, f"the file is larger than {self._max_bytes} bytes")
        return file.getvalue()

    def _open(self) -> ClientSession:
        """The one session, opened in the event loop that reads."""
        if self._session is None:
            # Each file has a connection of its own: what a server sends too much must not answer another request.
            connector = TCPConnector(
                ssl=self._tls, resolver=self._resolver, socket_factory=self._socket, force_close=True
            )
            self._session = ClientSession(
                connector=connector,
                headers=HEADERS,
                cookie_jar=DummyCookieJar(),
                trust_env=False,
                timeout=ClientTimeout(total=None, sock_connect=None),  # `read` has the deadline
            )
        return self._session

    def _socket(self, address: AddrInfoType) -> socket.socket:
        """The socket that is then connected to this address, and to no other."""
        family, kind, protocol, _, (host, *_) = address
        if not self._may_dial(str(host)):
            raise _NotPublicError("not a public address")
        return socket.socket(family, kind, protocol)


class _NotPublicError(OSError):
    """The address may not be connected to."""


class _Names(AbstractResolver):
    """Looks names up on threads of its own: a name server that hangs takes no thread from other work."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """See AbstractResolver. Raises OSError."""
        lookup = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, lookup)
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=int(address[1]), family=kind, proto=protocol, flags=0
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Does not wait for lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _tls(settings: MediaSettings) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if settings.https_ca_file is not None:
        try:
            context.load_verify_locations(settings.https_ca_file)
        except (OSError, ssl.SSLError):
            text = f"MODERATION_MEDIA__HTTPS_CA_FILE: {settings.https_ca_file} is no readable file of PEM certificates"
            raise ConfigError(text) from None
    return context
