"""The public keys of bearer tokens: from a PEM file, a JWKS file or a JWKS URL, read again at intervals.

Any error of a reading means that the keys were not refreshed. The last keys then stay, until they are older than
jwt_keys_max_age_s. Only a valid set with a usable key replaces them. A key that the new set lacks is withdrawn.
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
STUCK_S = 2.0  # after READ_S, when a reading's thread is given up
RETRY_S = 1.0  # between two readings of a starting API
MAX_STUCK = 3  # threads that were given up and still run: in the resolver, or on a dead file system

log = structlog.get_logger()


class NotReadError(Exception):
    """The keys could not be read. The text is the cause: the name of an error's type."""


@dataclass(frozen=True, slots=True)
class _Reading:
    content: bytes
    by_id: Mapping[str | None, Any]


class Keys:
    """Public keys by id. The single key of a PEM file has no id."""

    def __init__(self, settings: AuthSettings) -> None:
        self._source = settings.jwt_keys
        self._algorithms = settings.algorithms
        self._refresh_s = settings.jwt_refresh_s
        self._max_age_s = settings.jwt_keys_max_age_s
        self._content = b""
        self._by_id: Mapping[str | None, Any] = {}
        self._read_at = time.monotonic()
        self._threads: list[threading.Thread] = []  # that read the keys, or hang
        self.edition = 0  # changes with the keys: what older keys have verified has to be verified again

    @property
    def age_s(self) -> float:
        """Seconds since the keys were last read."""
        return time.monotonic() - self._read_at

    @property
    def expired(self) -> bool:
        """Whether the keys are too old to trust: one may have been withdrawn since."""
        return self.age_s > self._max_age_s

    async def load(self, patience_s: float = 0.0) -> None:
        """Reads the keys at the start. A server of keys may come up within `patience_s`. Raises ConfigError."""
        deadline = time.monotonic() + (patience_s if self._source.startswith("https:") else 0.0)
        while True:
            try:
                self._take(await self._reading())
                break
            except NotReadError as error:
                if time.monotonic() >= deadline:
                    # The cause only: a library's text may quote what it read.
                    raise ConfigError(
                        f"MODERATION_AUTH__JWT_KEYS: cannot read keys ({error}). It must be a file with a public key "
                        f"(PEM) or a JWKS, or the https URL of a JWKS, with keys for {', '.join(self._algorithms)}"
                    ) from None
                log.warning("jwt_keys_not_refreshed", cause=str(error), age_s=None)
            await asyncio.sleep(RETRY_S)
        metrics.KEYS_AGE.set_function(lambda: self.age_s)

    async def refresh(self) -> None:
        """Reads the keys at intervals, until it is cancelled. The last keys stay when that fails."""
        while True:
            await asyncio.sleep(self._refresh_s)
            try:
                self._take(await self._reading())
            except NotReadError as error:
                log.warning("jwt_keys_not_refreshed", cause=str(error), age_s=round(self.age_s, 1))

    def find(self, id: str | None) -> Any:
        """The key of this id, or the single key without an id; None: there is none."""
        if len(self._by_id) == 1 and None in self._by_id:
            return self._by_id[None]
        return self._by_id.get(id)

    def _take(self, reading: _Reading) -> None:
        self._read_at = time.monotonic()
        if reading.content != self._content:
            self._content, self._by_id = reading.content, reading.by_id
            self.edition += 1

    async def _reading(self) -> _Reading:
        """Reads once, on a new thread: a thread cannot be stopped, and the event loop has only a few.

        Raises NotReadError, within READ_S + STUCK_S.
        """
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) > MAX_STUCK:
            raise NotReadError("EarlierReadingsHang")
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[_Reading] = loop.create_future()

        def end(reading: _Reading | None, cause: str) -> None:
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
            except BaseException as error:  # noqa: BLE001  the bytes are anyone's, and a Rust panic is not an Exception
                cause = type(error).__name__
            with suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(end, reading, cause)

        thread = threading.Thread(target=work, name="jwt-keys", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the process may have no more threads at the moment
            raise NotReadError("NoThread") from None
        self._threads.append(thread)  # until it has ended
        try:
            async with asyncio.timeout(READ_S + STUCK_S):
                return await ended
        except TimeoutError:
            raise NotReadError("TimeoutError") from None

    def _read(self, until: float) -> _Reading:
        content = jwks.fetch(self._source, until) if self._source.startswith("https:") else _file(Path(self._source))
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
            raise ValueError("no usable key")
        return _Reading(content, usable)


def _file(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(jwks.MAX_BYTES + 1)
    if len(content) > jwks.MAX_BYTES:
        raise ValueError("too large")
    return content
