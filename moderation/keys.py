"""The keys that bearer tokens are signed with: from a PEM, a JWKS file or a JWKS URL, read anew now and then."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
import structlog
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from moderation.errors import ConfigError
from moderation.settings import GuardSettings

MAX_BYTES = 1 << 20
FETCH_S = 5.0

log = structlog.get_logger()


class Keys:
    """Public keys by their id; the only one of a PEM has none."""

    def __init__(self, settings: GuardSettings) -> None:
        self._from = settings.jwt_keys
        self._algorithms = settings.algorithms
        self._refresh_s = settings.jwt_refresh_s
        self._content = b""
        self._by_id: Mapping[str | None, Any] = {}
        self.edition = 0  # changes with them: what was checked with those of another has to be checked again

    async def load(self) -> None:
        """Reads them. Raises ConfigError when there are none."""
        try:
            content, by_id = await asyncio.to_thread(self._read)
        except (OSError, ValueError, jwt.PyJWTError, AttributeError, TypeError) as error:
            # The reason only: a library's text may quote what it read.
            raise ConfigError(
                f"MODERATION_GUARD__JWT_KEYS: no keys can be read there ({type(error).__name__}): it is a file with a "
                f"public key (PEM) or a JWKS, or an https URL of a JWKS, with keys for {', '.join(self._algorithms)}"
            ) from None
        if content != self._content:
            self._content, self._by_id = content, by_id
            self.edition += 1

    async def refresh(self) -> None:
        """Reads them now and then until cancelled; those known stay while they cannot be read."""
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                await self.load()
            except ConfigError:
                log.warning("jwt_keys_not_refreshed")

    def find(self, id: str | None) -> Any:
        """The key of this id, or the only one there is; None: it is not known."""
        if len(self._by_id) == 1 and None in self._by_id:
            return self._by_id[None]
        return self._by_id.get(id)

    def _read(self) -> tuple[bytes, Mapping[str | None, Any]]:
        content = _fetch(self._from) if self._from.startswith("https:") else Path(self._from).read_bytes()[:MAX_BYTES]
        if content.lstrip().startswith(b"-----BEGIN CERTIFICATE"):
            return content, {None: load_pem_x509_certificate(content).public_key()}
        if content.lstrip().startswith(b"-----BEGIN"):
            return content, {None: load_pem_public_key(content)}
        keys = jwt.PyJWKSet.from_dict(json.loads(content)).keys
        usable = {
            key.key_id: key
            for key in keys
            if key.key_type != "oct" and key.public_key_use in (None, "sig") and key.algorithm_name in self._algorithms
        }
        if not usable:
            raise ValueError("no key that may sign")
        return content, usable


class _Here(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: the settings name the one place that is trusted."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _fetch(url: str) -> bytes:
    secure = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    try:
        with urllib.request.build_opener(_Here, secure).open(url, timeout=FETCH_S) as answer:
            content: bytes = answer.read(MAX_BYTES)
            return content
    except urllib.error.URLError as error:
        raise OSError(type(error).__name__) from None
