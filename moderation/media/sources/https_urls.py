"""Which https:// references may be fetched: those of listed hosts, in a form that all readers of URLs read alike."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, urljoin

from yarl import URL

from moderation.errors import ConfigError, PostError
from moderation.types import Detail, Reason

# No user, no port but the usual one, no fragment, no backslash: parsers differ about them.
_FORM = re.compile(r"https://([^/?#:@\\%\[\]]+)(?::443)?((?:/[^?#\\]*)?(?:\?[^#\\]*)?)", re.IGNORECASE)
_SLASHES = re.compile(r"(https?:)?///", re.IGNORECASE)  # then comes a path for some readers, a host for others
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DOTS = re.compile(r"/(\.|%2e){1,2}([/?]|$)", re.IGNORECASE)  # browsers resolve them, servers may read them otherwise
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})+")
_NUMBER = re.compile(r"(\d+|0x[0-9a-f]*)$")  # a host whose last label is one is an address
_KEPT = "%/?:@!$&'()*+,;=~[]|"  # characters of paths and queries that browsers send as they are


class Hosts:
    """The hosts that https:// references may name."""

    def __init__(self, names: Iterable[str]) -> None:
        """names: `images.example.com`, or `*.example.com` for all names below example.com. Raises ConfigError."""
        self._names: set[str] = set()
        self._parents: set[str] = set()
        for name in names:
            below = name.startswith("*.")
            host = _host(name.removeprefix("*."))
            if not host:
                raise ConfigError(
                    f"MODERATION_MEDIA__HTTPS_HOSTS: {name!r} is no host name; write names such as images.example.com, "
                    "or *.example.com for all names below example.com"
                )
            (self._parents if below else self._names).add(host)

    def url(self, reference: str, base: URL | None = None) -> URL:
        """The URL of a reference, as it is sent. base: the URL that redirects to the reference, which may be relative.

        Raises PostError: IMAGE_FORBIDDEN.
        """
        host, rest = _parts(reference, base)
        if not host:
            text = "the reference must be https://host/path, without a user, a port, a fragment or dot segments"
            raise PostError(Reason.IMAGE_FORBIDDEN, text, detail=Detail.URL)
        if not self._allow(host):
            text = "the host is not listed (MODERATION_MEDIA__HTTPS_HOSTS)"
            raise PostError(Reason.IMAGE_FORBIDDEN, text, detail=Detail.HOST)
        return URL(f"https://{host}{rest if rest.startswith('/') else f'/{rest}'}", encoded=True)

    def _allow(self, host: str) -> bool:
        labels = host.split(".")
        parents = {".".join(labels[count:]) for count in range(1, len(labels))}
        return host in self._names or not self._parents.isdisjoint(parents)


def _parts(reference: str, base: URL | None) -> tuple[str, str]:
    """The host of a reference, and its path and query. No host: the reference is not in a form that is allowed."""
    if _SLASHES.match(reference):
        return "", ""
    try:
        form = _FORM.fullmatch(urljoin(str(base), reference) if base else reference)
        if form is None or _CONTROL.search(form[0]) or _DOTS.search(form[2].partition("?")[0]):
            return "", ""
        return _host(form[1]), quote(form[2], safe=_KEPT)
    except ValueError:  # of urljoin, or half a character
        return "", ""


def _host(given: str) -> str:
    """A host name in the form of the DNS, or nothing if it is none. An address is none."""
    try:
        host = URL.build(scheme="https", host=given).raw_host or ""  # maps letters as UTS 46 says
    except ValueError:
        return ""
    return host if _NAME.fullmatch(host) and not _NUMBER.fullmatch(host.rpartition(".")[2]) else ""
