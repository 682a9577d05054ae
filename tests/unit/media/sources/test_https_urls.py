"""References to the web: one way to read them, and listed hosts only."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from moderation.errors import ConfigError, PostError
from moderation.media.sources.https_urls import Hosts
from moderation.types import Detail, Reason
from tests.support.address_forms import INNER, ODD

HOSTS = Hosts(["images.example.com", "*.cdn.example.com", "BÜCHER.example", "my_bucket.store.example"])


@pytest.mark.parametrize(
    ("reference", "sent"),
    [
        ("https://images.example.com/a.png", "https://images.example.com/a.png"),
        ("HTTPS://Images.EXAMPLE.com/A.png", "https://images.example.com/A.png"),
        ("https://images.example.com:443/a", "https://images.example.com/a"),
        ("https://images.example.com", "https://images.example.com/"),
        ("https://images.example.com?a=1", "https://images.example.com/?a=1"),
        ("https://a.cdn.example.com/", "https://a.cdn.example.com/"),
        ("https://a.b.cdn.example.com/", "https://a.b.cdn.example.com/"),
        ("https://bücher.example/ü ü.png", "https://xn--bcher-kva.example/%C3%BC%20%C3%BC.png"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("https://ｉmages。example.com/", "https://images.example.com/"),  # a browser goes there, too
        ("https://my_bucket.store.example/", "https://my_bucket.store.example/"),
        # a signature holds for these very bytes
        ("https://images.example.com/a%2Fb+c?X=%7e%2f&y=a b&z=é", "https://images.example.com/a%2Fb+c?X=%7e%2f&y=a%20b&z=%C3%A9"),
        ("https://images.example.com/a?u=https://b/../c@d:1", "https://images.example.com/a?u=https://b/../c@d:1"),
        ("https://images.example.com/..a/b../.c./...", "https://images.example.com/..a/b../.c./..."),
    ],
)  # fmt: skip
def test_a_reference_to_a_listed_host_is_sent_as_browsers_send_it(reference: str, sent: str) -> None:
    url = HOSTS.url(reference)
    assert str(url) == sent
    assert f"https://{url.raw_host}{url.raw_path_qs}" == sent


@pytest.mark.parametrize(
    "reference",
    [
        "https://user@images.example.com/",
        "https://user:secret@images.example.com/",
        "https://images.example.com@evil.example/",
        "https://evil.example#@images.example.com/",
        "https://evil.example\\@images.example.com/",
        "https://images.example.com\\.evil.example/",
        "https://images.example.com\\evil",
        "https://images.example.com/a\\b",
        "https://images.example.com:8443/",
        "https://images.example.com:80/",
        "https://images.example.com:/",
        "https://images.example.com:0443/",
        "https://images.example.com:443:443/",
        "https://images.example.com/#a",
        "https://images.example.com#a",
        "https://images.example.com/a/../b",
        "https://images.example.com/a/%2E%2e/b",
        "https://images.example.com/.",
        "https://images.example.com/..?a",
        "https://images.example.com/\ta",
        "https://images.example.com/\x00",
        "https://images.example.com/\ud800",
        "https://images.example.com./",
        "https://images.example.com../",
        "https://.images.example.com/",
        "https://images..example.com/",
        "https://images%2eexample.com/",
        "https://%69mages.example.com/",
        "https://ima\u00adges%2eexample.com/",
        "https://ima\u200bges.example.com/",
        "https://images.example.com\uff0fa/",
        "https://images.example.com\uff1a80/",
        "https://images.example.com\uff20evil.example/",
        "https:images.example.com/",
        "https:/images.example.com/",
        "https:///images.example.com/",
        "https:\\\\images.example.com/",
        "http://images.example.com/",
        " https://images.example.com/",
        "https://images.example.com /",
        "https://images .example.com/",
        "//images.example.com/",
        "https://",
        "https:",
        "https",
        "",
    ],
)
def test_a_reference_that_readers_read_differently_is_refused(reference: str) -> None:
    with pytest.raises(PostError) as caught:
        HOSTS.url(reference)
    assert (caught.value.reason, caught.value.problem.detail) == (Reason.IMAGE_FORBIDDEN, Detail.URL)
    assert "example" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "evil.example",
        "cdn.example.com",
        "images.example.com.evil.example",
        "xcdn.example.com",
        "a.images.example.com",
        "images.example.co",
        "іmages.example.com",  # the first letter is Cyrillic
        "localhost.localdomain",
        "images.example.com\u2044a",  # a fraction's slash
    ],
)
def test_a_host_that_is_not_listed_is_refused(host: str) -> None:
    with pytest.raises(PostError) as caught:
        HOSTS.url(f"https://{host}/a.png")
    assert (caught.value.reason, caught.value.problem.detail) == (Reason.IMAGE_FORBIDDEN, Detail.HOST)


@pytest.mark.parametrize(
    "host",
    [*INNER, *sorted({*ODD} - {"localhost.localdomain"}), *(f"[{address}]" for address in INNER if ":" in address)],
)
def test_an_address_is_no_host(host: str) -> None:
    with pytest.raises(PostError):
        HOSTS.url(f"https://{host}/")
    with pytest.raises(ConfigError, match="MODERATION_MEDIA__HTTPS_HOSTS"):
        Hosts([host])


@pytest.mark.parametrize(
    "name",
    ["*", "*.com", "com", "a.*.example.com", "**.example.com", "*example.com", "https://a.example", "a.example/b",
     "a.example:443", "u@a.example", "a.example.", ".a.example", "a b.example", "*.0.0.1", "-a.example",
     "a" * 64 + ".b"],
)  # fmt: skip
def test_what_is_no_host_name_cannot_be_listed(name: str) -> None:
    with pytest.raises(ConfigError, match="MODERATION_MEDIA__HTTPS_HOSTS"):
        Hosts([name])


def test_without_hosts_every_reference_is_refused() -> None:
    with pytest.raises(PostError) as caught:
        Hosts([]).url("https://images.example.com/")
    assert caught.value.problem.detail is Detail.HOST


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        ("https://a.cdn.example.com/x?y", "https://a.cdn.example.com/x?y"),
        ("//a.cdn.example.com/x", "https://a.cdn.example.com/x"),
        ("/x", "https://images.example.com/x"),
        ("x", "https://images.example.com/a/x"),
        ("../x", "https://images.example.com/x"),
        ("?x", "https://images.example.com/a/b?x"),
        ("", "https://images.example.com/a/b?q=1"),
        ("/%2F%2Fevil.example/x", "https://images.example.com/%2F%2Fevil.example/x"),
    ],
)
def test_a_redirect_may_be_relative(location: str, sent: str) -> None:
    assert str(HOSTS.url(location, URL("https://images.example.com/a/b?q=1"))) == sent


@pytest.mark.parametrize(
    "location",
    ["http://images.example.com/x", "//evil.example/x", "///evil.example/x", "\\\\evil.example/x", "/\\evil.example/x",
     "file:///etc/passwd", "data:image/png;base64,AAAA", "ftp://images.example.com/x", "//user@images.example.com/x",
     "//images.example.com:22/x", "//[", "https://127.0.0.1/", "gopher://images.example.com/", "javascript:x"],
)  # fmt: skip
def test_a_redirect_leads_nowhere_else(location: str) -> None:
    with pytest.raises(PostError) as caught:
        HOSTS.url(location, URL("https://images.example.com/a/b"))
    assert caught.value.reason is Reason.IMAGE_FORBIDDEN


PARTS = st.text(alphabet="/.%0[]@:?#\\\t ａ℀\u200bax-é\ud800")


@given(st.one_of(st.text(), st.builds("https://{}images.example.com{}".format, PARTS, PARTS)))
@example("https://images.example.com/?")
def test_any_reference_is_refused_or_leads_to_a_listed_host(reference: str) -> None:
    try:
        url = HOSTS.url(reference)
    except PostError:
        return
    assert str(url).isascii()
    assert (url.scheme, url.port, url.user, url.password, url.fragment) == ("https", 443, None, None, "")
    host = url.raw_host or ""
    assert host in ("images.example.com", "xn--bcher-kva.example") or host.endswith(".cdn.example.com")
    assert not {" ", "\\", "\t", "#"} & set(str(url))
