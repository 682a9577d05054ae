"""Files from web servers: real servers on loopback that answer as they should, and as they should not."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import ClientError, TCPConnector

from moderation.errors import ConfigError
from moderation.media.fetching import sources_of
from moderation.media.reader import Media
from moderation.media.sources import https
from moderation.media.sources.addresses import is_public
from moderation.media.sources.https import HttpsServers
from moderation.settings import MediaSettings
from moderation.types import Detail, Image, Problem, Reason
from tests.support.address_forms import INNER, ODD
from tests.support.builders import a_file, a_post, an_image
from tests.support.dialled import dialled
from tests.support.web_server import (
    NAME,
    Names,
    WebServer,
    endless,
    forbidden,
    hangs_after,
    ok,
    problem_of,
    to,
    unavailable,
    web_server,
)

URL = f"https://{NAME}"


async def test_a_file_is_read(server: WebServer) -> None:
    server.answers["/a.png?x=%7e"] = ok(b"the file")
    async with server.source() as source:
        assert await source.read(f"{URL}/a.png?x=%7e") == b"the file"


async def test_a_request_says_nothing_but_what_it_asks_for(server: WebServer) -> None:
    server.answers["/a"] = ok(b"a", "Set-Cookie: id=1; Domain=web.example", f"Location: {URL}/never")
    server.answers["/b"] = ok(b"b", "Set-Cookie: id=2", f"Location: {URL}/a", status="301 Moved")
    async with server.source() as source:
        assert [await source.read(f"{URL}/{name}") for name in "aba"] == [b"a", b"a", b"a"]
    for head in server.heads:
        lines = head.decode().split("\r\n")
        names = sorted(line.partition(":")[0].lower() for line in lines[1:] if line)
        assert names == ["accept", "accept-encoding", "connection", "host", "user-agent"]
        assert f"Host: {NAME}" in lines
        assert "Accept-Encoding: identity" in lines


async def test_nothing_of_the_environment_is_used(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["/a"] = ok(b"a")
    async with web_server(server.ca.parent) as proxy:
        netrc = server.ca.parent / "netrc"
        netrc.write_text(f"machine {NAME} login who password secret\n")
        monkeypatch.setenv("NETRC", str(netrc))
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with server.source() as source:
            assert await source.read(f"{URL}/a") == b"a"
        assert proxy.connections == 0
    assert b"uthorization" not in server.heads[0]


async def test_the_type_is_read_from_the_bytes(server: WebServer) -> None:
    """A header, or the end of a name, says nothing."""
    for number, header in enumerate(
        ("Content-Type: text/html", "Content-Type: \xff", "Content-Disposition: attachment")
    ):
        server.answers[f"/{number}.html"] = ok(b"\x89PNG", header)
    async with server.source() as source:
        assert [await source.read(f"{URL}/{number}.html") for number in range(3)] == [b"\x89PNG"] * 3


# Where it connects to


def _names() -> list[str]:
    return [f"[{form}]" if ":" in form and "[" not in form else form for form in (*INNER, *ODD)]


async def test_no_inner_address_is_dialled_as_a_host(server: WebServer) -> None:
    with dialled() as addresses:
        async with server.source(may_dial=is_public) as source:
            for name in _names():
                for url in (f"https://{name}/", f"https://{name}:{server.port}/", f"https://x@{name}/"):
                    assert (await problem_of(source.read(url))).reason is Reason.IMAGE_FORBIDDEN, url
    assert (addresses, server.connections) == ([], 0)


async def test_no_inner_address_is_dialled_behind_a_listed_name(server: WebServer) -> None:
    hosts = {f"{number}.web.example": form for number, form in enumerate((*INNER, *ODD))}
    with dialled() as addresses:
        async with server.source({host: [(form, server.port)] for host, form in hosts.items()}, is_public) as source:
            for host, form in hosts.items():
                assert await problem_of(source.read(f"https://{host}/")) == forbidden(Detail.ADDRESS), form
    assert (addresses, server.connections) == ([], 0)


async def test_no_inner_address_is_dialled_by_a_redirect(server: WebServer) -> None:
    server.answers |= {f"/{number}": to(f"https://{name}/") for number, name in enumerate(_names())}
    with dialled() as addresses:
        async with server.source() as source:
            for number, name in enumerate(_names()):
                assert (await problem_of(source.read(f"{URL}/{number}"))).reason is Reason.IMAGE_FORBIDDEN, name
    assert {*addresses} == {("127.0.0.1", server.port)}, "the server that redirects is the only one"
    assert len(addresses) == server.connections == len(_names())


async def test_no_inner_address_is_dialled_by_a_url_that_was_not_checked(server: WebServer) -> None:
    """What is dialled is checked even then. The library asks no resolver for an address."""
    with dialled() as addresses:
        async with server.source(may_dial=is_public) as source:
            for name in _names():
                with contextlib.suppress(ClientError, ValueError, OSError):
                    async with source._open().get(f"https://{name}:{server.port}/"):
                        pytest.fail(f"{name} was asked")
    assert (addresses, server.connections) == ([], 0)


def test_at_least_60_forms_are_tried() -> None:
    assert len({*INNER, *ODD}) >= 60


async def test_a_name_whose_answers_differ_is_dialled_where_it_may_be(server: WebServer, tmp_path: Path) -> None:
    server.answers["/"] = ok(b"outer")
    async with web_server(tmp_path, {"/": ok(b"inner")}, address="127.0.0.2") as inner:
        both = [("127.0.0.2", inner.port), ("127.0.0.1", server.port), ("::1", inner.port)]
        async with server.source({NAME: both}) as source:
            assert await source.read(f"{URL}/") == b"outer"
        assert inner.connections == 0


async def test_a_name_that_is_bound_anew_leads_nowhere_else(server: WebServer, tmp_path: Path) -> None:
    """The answer that is checked is the one that is dialled; a later answer is checked again."""
    server.answers["/"] = ok(b"outer", "Connection: close")
    async with web_server(tmp_path, {"/": ok(b"inner")}, address="127.0.0.2") as inner, server.source() as source:
        names = source._resolver
        assert isinstance(names, Names)
        assert await source.read(f"{URL}/") == b"outer"
        assert names.asked == [NAME], "one look-up for one connection"
        names.answers[NAME] = [("127.0.0.2", inner.port)]
        connector = source._open().connector
        assert isinstance(connector, TCPConnector)
        connector.clear_dns_cache()
        assert await problem_of(source.read(f"{URL}/")) == forbidden(Detail.ADDRESS)
        assert (names.asked, inner.connections) == ([NAME, NAME], 0)


async def test_names_are_looked_up_by_the_system() -> None:
    names = https._Names()
    found = await names.resolve("localhost", 443)
    await names.close()
    assert {(each["host"], each["port"]) for each in found} <= {("127.0.0.1", 443), ("::1", 443)}
    assert found


async def test_a_name_that_nobody_knows(server: WebServer) -> None:
    source = HttpsServers(server.settings(https_hosts=("no-such-host.invalid",)))
    with dialled() as addresses:
        problem = await problem_of(source.read("https://no-such-host.invalid/"))
    await source.close()
    assert (problem, [address for address in addresses if address[1] == 443]) == (unavailable(), [])


async def test_a_look_up_that_hangs_delays_no_other(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    own = socket.getaddrinfo

    def hanging(host: str, *rest: Any, **more: Any) -> Any:
        if host.startswith("slow"):
            released.wait(10)
            raise socket.gaierror
        return own("127.0.0.1", server.port, *rest[1:], **more)

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    server.answers["/"] = ok(b"a")
    source = HttpsServers(server.settings(https_timeout_s=0.3), may_dial="127.0.0.1".__eq__)
    try:
        slow = asyncio.create_task(source.read("https://slow.web.example/"))
        assert await source.read(f"{URL}/") == b"a"
        with pytest.raises(TimeoutError):
            await slow
    finally:
        released.set()
        await source.close()


# Redirects


@pytest.mark.parametrize("status", ["301 a", "302 b", "303 c", "307 d", "308 e"])
async def test_redirects_are_followed(server: WebServer, status: str) -> None:
    server.answers |= {
        "/1": to("/2", status),
        "/2": to("//other.web.example/3", status),
        "/3": to("https://third.web.example:443/4", status),
        "/4": ok(b"here"),
    }
    async with server.source() as source:
        assert await source.read(f"{URL}/1") == b"here"
    assert [head.split(b"Host: ")[1].split(b"\r")[0] for head in server.heads] == [
        NAME.encode(), NAME.encode(), b"other.web.example", b"third.web.example",
    ]  # fmt: skip


async def test_redirects_end(server: WebServer) -> None:
    server.answers |= {f"/{number}": to(f"/{number + 1}") for number in range(9)} | {"/loop": to("/loop")}
    async with server.source() as source:
        assert await problem_of(source.read(f"{URL}/0")) == forbidden(Detail.REDIRECTS)
        assert len(server.heads) == 1 + https.MAX_REDIRECTS
        assert await problem_of(source.read(f"{URL}/loop")) == forbidden(Detail.REDIRECTS)


@pytest.mark.parametrize(
    ("location", "detail"),
    [
        ("https://elsewhere.example/", Detail.HOST),
        ("//elsewhere.example/", Detail.HOST),
        (f"http://{NAME}/", Detail.URL),
        (f"https://who:secret@{NAME}/", Detail.URL),
        (f"https://{NAME}:22/", Detail.URL),
        ("file:///etc/passwd", Detail.URL),
        ("data:image/png;base64,AAAA", Detail.URL),
        (f"https://{NAME}/\xff", Detail.URL),
    ],
)
async def test_a_redirect_is_checked_as_a_reference_is(server: WebServer, location: str, detail: Detail) -> None:
    server.answers["/"] = ok(b"", "Location: LOCATION", status="302 Found").replace(
        b"LOCATION", location.encode("latin-1")
    )
    async with server.source() as source:
        assert await problem_of(source.read(f"{URL}/")) == forbidden(detail)
    assert len(server.heads) == 1


async def test_the_body_of_a_redirect_is_not_read(server: WebServer) -> None:
    server.answers |= {"/": endless(b"HTTP/1.1 302 Found\r\nLocation: /a\r\n\r\n"), "/a": ok(b"a")}
    async with server.source() as source:
        assert await source.read(f"{URL}/") == b"a"


# Certificates


async def test_a_certificate_must_be_valid_for_the_host(tmp_path: Path) -> None:
    ca, long_ago = trustme.CA(), datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    bad = {
        "of another name": ca.issue_cert("images.other.example"),
        "of an address": ca.issue_cert("127.0.0.1"),
        "expired": ca.issue_cert(NAME, not_before=long_ago, not_after=long_ago + datetime.timedelta(days=1)),
        "of another authority": trustme.CA().issue_cert(NAME),
    }
    for what, certificate in bad.items():
        async with web_server(tmp_path, {"/": ok(b"a")}, authority=ca, certificate=certificate) as server:
            async with server.source() as source:
                assert await problem_of(source.read(f"{URL}/")) == unavailable(Detail.CERTIFICATE), what
            assert not server.heads, what


async def test_the_systems_authorities_count_with_and_without_ones_own(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/"] = ok(b"a")
    async with server.source(https_ca_file=None) as source:
        assert await problem_of(source.read(f"{URL}/")) == unavailable(Detail.CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(server.ca))
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    for own in (None, other):
        async with server.source(https_ca_file=own) as source:
            assert await source.read(f"{URL}/") == b"a"


async def test_a_server_without_tls_is_not_read(tmp_path: Path) -> None:
    async with web_server(tmp_path, tls=False) as server, server.source() as source:
        server.greeting = ok(b"a")
        assert await problem_of(source.read(f"{URL}/")) == unavailable()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_a_mistake(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content:
        file.write_text(content)
    with pytest.raises(ConfigError, match="MODERATION_MEDIA__HTTPS_CA_FILE"):
        HttpsServers(MediaSettings(https_ca_file=file))


async def test_it_closes_before_it_has_read(server: WebServer) -> None:
    async with server.source():
        pass


async def test_a_posts_picture_is_read_and_what_was_not_is_a_problem(server: WebServer) -> None:
    server.answers |= {"/a.png": ok(a_file(an_image(10, 20))), "/slow": hangs_after(b"")}
    async with server.source(https_timeout_s=0.3) as source, Media(server.settings(), {"https": source}) as media:
        uris = (f"{URL}/a.png", f"{URL}/slow", "https://elsewhere.example/", "http://images.web.example/a.png")
        async with media.opened(a_post(images=tuple(Image(uri=uri) for uri in uris))) as read:
            assert [picture.size for picture in read.content.pictures] == [(10, 20)]
            late, elsewhere, plain = read.problems
    assert late == Problem(Reason.DEADLINE_EXCEEDED, "images[1].uri")
    assert late.limit, "a picture that its server keeps back must not pass unseen"
    assert elsewhere == Problem(Reason.IMAGE_FORBIDDEN, "images[2].uri", Detail.HOST)
    assert plain == Problem(Reason.IMAGE_FORBIDDEN, "images[3].uri", Detail.SCHEME)


async def test_only_listed_hosts_switch_it_on() -> None:
    for hosts in ((), ("images.web.example",)):
        sources = sources_of(MediaSettings(https_hosts=hosts))
        assert ("https" in sources) == bool(hosts)
        assert "http" not in sources
        for source in sources.values():
            await source.close()
