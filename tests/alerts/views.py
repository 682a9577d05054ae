"""APIs: their views, certificates, keys and callers."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import trustme

from moderation.client import CallError, Post
from tests.alerts.site import Site
from tests.alerts.situation import Alert, situation
from tests.support.key_server import a_key, a_set, key_server, sending


@situation(
    Alert("ModerationViewStalled", {"instance": "api-0"}),
    caused="the volume of the view's file is full",
    top="the view of api-0 is stalled",
)
async def view_cannot_be_written(site: Site) -> AsyncGenerator[None, None]:
    volume = site.folder / "volume"
    volume.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=4m", "moderation-alerts", str(volume))
    await asyncio.to_thread(subprocess.run, mount, check=True)
    site.stack.callback(subprocess.run, ("umount", "--lazy", str(volume)), check=False)
    await site.topics()
    site.start()
    site.start("api", API__VIEW=str(volume / "view.sqlite"))
    await site.calm()
    await site.put(5)
    with contextlib.suppress(OSError), (volume / "filler").open("wb") as filler:
        while True:
            filler.write(bytes(4096))
            filler.flush()
    await site.during(site.stream(50))
    site.caused()
    yield
    (volume / "filler").unlink()


@situation(
    Alert("ModerationViewBehind", {"instance": "api-0"}),
    caused="verdicts come faster than the API may read them: it is stopped for most of the time",
    top="the view of api-0",
)
async def view_behind(site: Site) -> AsyncGenerator[None, None]:
    await site.begin(apis=1)
    await site.during(site.stream(20))
    await asyncio.sleep(2)
    site.caused()
    async with site.meanwhile(site.pulses("api-0", 2.5, 0.15)):
        yield


def _certify(folder: Path, life: timedelta, authority: trustme.CA) -> None:
    """Writes the API's certificate, which expires after so long."""
    certificate = authority.issue_cert("localhost", "127.0.0.1", not_after=datetime.now(UTC) + life)
    (folder / "server.key").write_bytes(certificate.private_key_pem.bytes())
    (folder / "server.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))


async def _with_tls(site: Site, life: timedelta) -> trustme.CA:
    authority = trustme.CA()
    await asyncio.to_thread(_certify, site.folder, life, authority)
    site.extra = {
        "MODERATION_AUTH__TLS_CERTIFICATE": str(site.folder / "server.pem"),
        "MODERATION_AUTH__TLS_KEY": str(site.folder / "server.key"),
    }
    await site.begin(workers=0, apis=1)
    return authority


@situation(
    Alert("ModerationApiCertificateExpires", {"instance": "api-0"}),
    caused="the API's certificate expires within what the rule calls a week",
    top="the certificate of api api-0",
    silent="ready, no log line, no metric",
)
async def certificate_expires(site: Site) -> AsyncGenerator[None, None]:
    authority = await _with_tls(site, timedelta(days=90))
    await asyncio.to_thread(_certify, site.folder, timedelta(days=5) / site.factor, authority)
    site.caused()
    yield
    await asyncio.to_thread(_certify, site.folder, timedelta(days=90), authority)


@situation(
    Alert("ModerationApiCertificateExpired", {"instance": "api-0"}),
    caused="the API's certificate is replaced by one of 20 seconds, which expires",
    top="has expired",
    silent="no lookup succeeds; ready, no log line, no metric",
)
async def certificate_expired(site: Site) -> AsyncGenerator[None, None]:
    authority = await _with_tls(site, timedelta(days=90))
    await asyncio.to_thread(_certify, site.folder, timedelta(seconds=20), authority)
    await asyncio.sleep(20)
    site.caused()
    yield
    await asyncio.to_thread(_certify, site.folder, timedelta(days=90), authority)


@situation(
    Alert("ModerationJwtKeysOld", {"instance": "api-0"}),
    caused="the server of the signing keys answers no more",
    top="last read the signing keys",
)
async def signing_keys_away(site: Site) -> AsyncGenerator[None, None]:
    keys = site.stack.enter_context(key_server(site.folder))
    body = a_set(one=a_key())
    answer = sending(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    keys.serve = answer
    site.extra = {
        "MODERATION_AUTH__JWT_KEYS": keys.url,
        "MODERATION_AUTH__JWT_AUDIENCE": "moderation",
        "MODERATION_AUTH__JWT_ISSUER": "https://id",
        "MODERATION_AUTH__JWT_REFRESH_S": "2",
        "SSL_CERT_FILE": str(keys.ca),
    }
    authority = trustme.CA()
    await asyncio.to_thread(_certify, site.folder, timedelta(days=90), authority)
    site.extra |= {
        "MODERATION_AUTH__TLS_CERTIFICATE": str(site.folder / "server.pem"),
        "MODERATION_AUTH__TLS_KEY": str(site.folder / "server.key"),
    }
    await site.begin(workers=0, apis=1)
    keys.serve = sending(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
    site.caused()
    yield
    keys.serve = answer


@situation(
    Alert("ModerationUnauthenticatedCalls", {"instance": "api-0"}),
    caused="a caller without a valid token calls 20 times a second",
)
async def callers_without_token(site: Site) -> AsyncGenerator[None, None]:
    authority = trustme.CA()
    await asyncio.to_thread(_certify, site.folder, timedelta(days=90), authority)
    authority.cert_pem.write_to_path(str(site.folder / "ca.pem"))
    public = a_set(one=a_key())
    await asyncio.to_thread((site.folder / "keys.json").write_bytes, public)
    site.extra = {
        "MODERATION_AUTH__TLS_CERTIFICATE": str(site.folder / "server.pem"),
        "MODERATION_AUTH__TLS_KEY": str(site.folder / "server.key"),
        "MODERATION_AUTH__JWT_KEYS": str(site.folder / "keys.json"),
        "MODERATION_AUTH__JWT_AUDIENCE": "moderation",
        "MODERATION_AUTH__JWT_ISSUER": "https://id",
    }
    await site.begin(workers=0, apis=1)

    async def call() -> None:
        async with site.client(ca=site.folder / "ca.pem", token=lambda: "no.valid.token") as client:
            while True:
                with contextlib.suppress(CallError):
                    await client.get("post-1")
                await asyncio.sleep(0.05)

    site.caused()
    async with site.meanwhile(call()):
        yield


@situation(
    Alert("ModerationApiErrors"),
    caused="one post may be pending, and no worker judges it: further posts get RESOURCE_EXHAUSTED",
)
async def submissions_refused(site: Site) -> AsyncGenerator[None, None]:
    await site.topics()
    site.start("api", API__MAX_PENDING_POSTS="1")
    await site.calm()

    async def call() -> None:
        async with site.client() as client:
            while True:
                with contextlib.suppress(CallError):
                    key, _ = site.a_post()
                    await client.moderate(Post(id=key.decode(), text="hello"), 1.0)
                await asyncio.sleep(0.2)

    async def look() -> None:
        async with site.client() as client:
            while True:
                await client.get("post-1")
                await asyncio.sleep(0.01)

    site.caused()
    async with site.meanwhile(call()):
        yield
    await site.stop("api-0")
    site.start("api")
    await site.ready("api-0")
    await site.during(look())


@situation(
    Alert("ModerationLookupSlow"),
    caused="the API stands still for 0.5 s of every second (SIGSTOP), while it is called",
)
async def lookups_slow(site: Site) -> AsyncGenerator[None, None]:
    await site.begin(workers=0, apis=1)

    async def call() -> None:
        async with site.client() as client:
            while True:
                with contextlib.suppress(CallError, grpc.RpcError):
                    await client.get("post-1")
                await asyncio.sleep(0.02)

    await site.during(call())
    site.caused()
    async with site.meanwhile(site.pulses("api-0", 0.5, 0.5)):
        yield
