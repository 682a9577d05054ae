"""The keys that bearer tokens are signed with: from a PEM, a JWKS file or a JWKS URL, read again at intervals.

Whatever goes wrong with a reading means that the keys were not refreshed: the last ones stay, until they are older than
jwt_keys_max_age_s. Only a valid set with a usable key replaces them; a key that is missing in it is withdrawn.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import structlog
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from moderation.api import jwks
from moderation.errors import ConfigError
from moderation.observability import metrics
from moderation.settings import AuthSettings

READ_S = 10.0  # for a whole reading: connection, TLS, headers and body
STUCK_S = 2.0  # beyond that, after which its thread is given up
MAX_STUCK = 3  # threads that were given up and still hang: in the resolver, or on a dead file system

log = structlog.get_logger()


class NotReadError(Exception):
    """The keys could not be read. Its text is the cause: a type's name."""


@dataclass(frozen=True, slots=True)
class _Reading:
    content: bytes
    by_id: Mapping[str | None, Any]


class Keys:
    """Public keys by their id; the only one of a PEM has none."""

    def __init__(self, settings: AuthSettings) -> None:
        self._from = settings.jwt_keys
        self._algorithms = settings.algorithms
        self._refresh_s = settings.jwt_refresh_s
        self._max_age_s = settings.jwt_keys_max_age_s
        self._content = b""
        self._by_id: Mapping[str | None, Any] = {}
        self._read_at = time.monotonic()
        self._stuck: list[threading.Thread] = []
        self.edition = 0  # changes with them: what was checked with those of another has to be checked again

    @property
    def age_s(self) -> float:
        """Seconds since they were last read."""
        return time.monotonic() - self._read_at

    @property
    def expired(self) -> bool:
        """Whether they are too old to trust: a key may have been withdrawn since."""
        return self.age_s > self._max_age_s

    async def load(self) -> None:
        """Reads them at the start. Raises ConfigError when there are none."""
        try:
            self._take(await self._reading())
        except NotReadError as error:
            # The cause only: a library's text may quote what it read.
            raise ConfigError(
                f"MODERATION_AUTH__JWT_KEYS: no keys can be read there ({error}): it is a file with a public key "
                f"(PEM) or a JWKS, or an https URL of a JWKS, with keys for {', '.join(self._algorithms)}"
            ) from None
        metrics.KEYS_AGE.set_function(lambda: self.age_s)

    async def refresh(self) -> None:
        """Reads them at intervals until cancelled; those known stay while they cannot be read."""
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                self._take(await self._reading())
            except NotReadError as error:
                log.warning("jwt_keys_not_refreshed", cause=str(error), age_s=round(self.age_s, 1))

    def find(self, id: str | None) -> Any:
        """The key of this id, or the only one there is; None: it is not known."""
        if len(self._by_id) == 1 and None in self._by_id:
            return self._by_id[None]
        return self._by_id.get(id)

    def _take(self, reading: _Reading) -> None:
        self._read_at = time.monotonic()
        if reading.content != self._content:
            self._content, self._by_id = reading.content, reading.by_id
            self.edition += 1

    async def _reading(self) -> _Reading:
        """One reading, on a thread of its own: a thread cannot be stopped, and the loop's own are few.

        Raises NotReadError, in READ_S + STUCK_S at the latest.
        """
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        if len(self._stuck) > MAX_STUCK:
            raise NotReadError("EarlierReadingsHang")
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[_Reading] = loop.create_future()

        def tell(reading: _Reading | None, cause: str) -> None:
            if ended.done():  # too late: given up, or cancelled
                return
            if reading is None:
                ended.set_exception(NotReadError(cause))
            else:
                ended.set_result(reading)

        def work() -> None:
            reading, cause = None, ""
            try:
                reading = self._read(time.monotonic() + READ_S)
            except BaseException as error:  # noqa: BLE001  strangers' bytes; and a Rust panic is no Exception
                cause = type(error).__name__
            with suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(tell, reading, cause)

        thread = threading.Thread(target=work, name="jwt-keys", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the process may have no more threads at the moment
            raise NotReadError("NoThread") from None
        self._stuck.append(thread)  # until it has ended
        try:
            async with asyncio.timeout(READ_S + STUCK_S):
                return await ended
        except TimeoutError:
            raise NotReadError("TimeoutError") from None

    def _read(self, until: float) -> _Reading:
        content = jwks.fetch(self._from, until) if self._from.startswith("https:") else _file(Path(self._from))
        if content.lstrip().startswith(b"-----BEGIN CERTIFICATE"):
            return _Reading(content, {None: load_pem_x509_certificate(content).public_key()})
        if content.lstrip().startswith(b"-----BEGIN"):
            return _Reading(content, {None: load_pem_public_key(content)})
        keys = jwt.PyJWKSet.from_dict(json.loads(content)).keys
        usable = {
            key.key_id: key
            for key in keys
            if key.key_type != "oct" and key.public_key_use in (None, "sig") and key.algorithm_name in self._algorithms
        }
        if not usable:
            raise ValueError("no key that may sign")
        return _Reading(content, usable)


def _file(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(jwks.MAX_BYTES + 1)
    if len(content) > jwks.MAX_BYTES:
        raise ValueError("too large")
    return content
