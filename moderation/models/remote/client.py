"""The HTTP client of a model server: OpenAI's own, with nothing taken from the environment but proxies and CAs."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import structlog
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from moderation.errors import ConfigError
from moderation.models.remote import responses
from moderation.settings import ModelSettings

URL = "MODERATION_MODEL__URL"
KEY = "MODERATION_MODEL__API_KEY"
KEY_FILE = f"{KEY}_FILE"
LOGGERS = ("openai", "httpx2", "httpcore2")  # OPENAI_LOG switches the first on; in debug they log more than names
NO_KEY = "-"  # the library wants some; it is not sent

log = structlog.get_logger()


def client_of(settings: ModelSettings) -> AsyncOpenAI:
    """A client for the server of the settings, which connects on use. It makes one attempt and follows no redirect.

    Raises ConfigError for a URL or key that cannot be used.
    """
    url = checked_url(settings.url)
    key = _checked_key(settings.api_key.get_secret_value(), KEY)
    if key and settings.api_key_file:
        raise ConfigError(f"{KEY_FILE} and {KEY} are both set: remove one")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    file = KeyFile(settings.api_key_file) if settings.api_key_file else None
    hooks = responses.hooks()
    if not file and not key:
        hooks["request"].append(_without_key)
    client = AsyncOpenAI(
        base_url=url,
        api_key=file.read if file else key or NO_KEY,
        max_retries=0,
        timeout=settings.request_timeout_s,
        http_client=DefaultAsyncHttpxClient(follow_redirects=False, event_hooks=hooks),
    )
    # The library takes these from OPENAI_ADMIN_KEY, OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS.
    client.admin_api_key = client.organization = client.project = None
    client._custom_headers = {}
    return client


async def _without_key(request: httpx2.Request) -> None:
    request.headers.pop("Authorization", None)


def checked_url(url: str) -> str:
    """The base URL without a slash at its end. Raises ConfigError, which does not quote it: it may hold a secret."""
    if not url:
        raise ConfigError(f"a model behind a server needs {URL}, such as https://api.openai.com/v1")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # the port is checked when it is read
    except ValueError:
        raise ConfigError(f"{URL} is no URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{URL} must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{URL} must hold no user name or password: put the key into the file of {KEY_FILE}")
    if parts.query or parts.fragment or any(not "!" <= sign <= "~" for sign in url):
        raise ConfigError(f"{URL} must be printable ASCII without ? and #")
    return url.rstrip("/")


class KeyFile:
    """The file with a key. It is read for each request, so a new key needs no restart."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError, which names the file and never quotes it."""
        self._path = path
        self._key = self._read()

    async def read(self) -> str:
        """The key. While the file cannot be used, the one before: if it is refused, that is an outage."""
        try:
            self._key = await asyncio.to_thread(self._read)
        except ConfigError:
            log.warning("model_key_unreadable", file=str(self._path))
        return self._key

    def _read(self) -> str:
        try:
            key = self._path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            what = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigError(f"{KEY_FILE}: the file {self._path} cannot be read: {what}") from None
        if not key:
            raise ConfigError(f"{KEY_FILE}: the file {self._path} is empty")
        return _checked_key(key, f"{KEY_FILE}: the file {self._path}")


def _checked_key(key: str, where: str) -> str:
    """The key, without the space around it. Raises ConfigError for one that no HTTP header can hold."""
    key = key.strip()
    if any(not "!" <= sign <= "~" for sign in key):
        raise ConfigError(f"{where} must hold one key: printable ASCII, without spaces")
    return key
