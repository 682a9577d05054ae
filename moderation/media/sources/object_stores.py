"""Images in object stores, by s3://, gs:// and az:// references into listed buckets.

A post chooses an object below a listed prefix, and nothing else: all stores are made from the settings. What is asked
of a store:

1. The size, and what version of the object it is (ETag). A larger object is not read.
2. The bytes of this version: no more than its size, whatever the store sends.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from dataclasses import dataclass

import obstore
import structlog
from obstore.exceptions import BaseError, PreconditionError

from moderation.errors import ConfigError, PostError
from moderation.media.sources.inflation import inflated
from moderation.media.sources.store_clients import Client, client_of
from moderation.settings import MediaSettings, StoreSettings
from moderation.settings.stores import segments_of
from moderation.types import Reason

CHUNK_BYTES = 1 << 20  # of a file, that are handed over at once
TRIES = 3  # at an object that is written again while it is read
LOG_S = 60.0  # between two log lines on the same failure of a store

_STATUS = re.compile(r"status code: (\d{3})\b")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Store:
    """A bucket, of which references below `prefix` may be read."""

    name: str
    bucket: tuple[str, str]  # scheme and name
    prefix: tuple[str, ...]
    client: Client


class _OtherVersionError(Exception):
    """The store sends another version of the object than the one whose size was asked."""


class ObjectStores:
    """Reads references to the stores of the settings."""

    def __init__(self, settings: MediaSettings) -> None:
        """Raises ConfigError where a store's settings are wrong. Asks no store."""
        self._max_bytes = settings.max_bytes
        self._timeout_s = settings.timeout_s
        self._stores = [_store(name, store, settings) for name, store in settings.stores.items()]
        self._said: dict[tuple[str, str], float] = {}  # when a failure was last logged, by store and cause
        places = Counter((store.bucket, store.prefix) for store in self._stores)
        for store in self._stores:
            if places[store.bucket, store.prefix] > 1:
                raise ConfigError(f"{_variable(store.name)}__URL: another store has the same URL; keep one of them")
        self._stores.sort(key=lambda store: -len(store.prefix))  # the longest prefix is the store of a reference

    async def read(self, uri: str) -> bytes:
        """See MediaSource."""
        store, key = self._placed(uri)
        async with asyncio.timeout(self._timeout_s):
            try:
                return await self._read(store, key)
            except FileNotFoundError:
                raise PostError(Reason.IMAGE_NOT_FOUND, "there is no such object in the store") from None
            except (BaseError, OSError, ValueError) as error:
                raise self._failed(store, _cause(error)) from None

    async def close(self) -> None:
        """See MediaSource. The library closes connections with the last client."""
        self._stores.clear()

    def _placed(self, uri: str) -> tuple[_Store, str]:
        try:
            scheme, bucket, key = segments_of(uri)
        except ValueError as error:
            raise PostError(Reason.IMAGE_FORBIDDEN, f"{error}") from None
        for store in self._stores:
            below = len(key) > len(store.prefix) and key[: len(store.prefix)] == store.prefix
            if store.bucket == (scheme, bucket) and below:
                return store, "/".join(key)
        text = "the object is not below the URL of a store (MODERATION_MEDIA__STORES__NAME__URL)"
        raise PostError(Reason.IMAGE_FORBIDDEN, text)

    async def _read(self, store: _Store, key: str) -> bytes:
        for _ in range(TRIES):
            size, etag = await self._asked(store, key)
            try:
                return await self._got(store, key, size, etag)
            except (PreconditionError, _OtherVersionError):  # written again since its size was asked
                continue
        raise self._failed(store, "the object changes while it is read")

    async def _asked(self, store: _Store, key: str) -> tuple[int, str | None]:
        meta = await obstore.head_async(store.client, key)
        if meta["size"] > self._max_bytes:
            raise PostError(Reason.IMAGE_TOO_LARGE, f"the object is larger than {self._max_bytes} bytes")
        return meta["size"], meta["e_tag"]

    async def _got(self, store: _Store, key: str, size: int, etag: str | None) -> bytes:
        if not size:
            return b""  # there is no range of it
        answer = await obstore.get_async(store.client, key, options={"if_match": etag, "range": (0, size)})
        if (answer.meta["size"], answer.meta["e_tag"]) != (size, etag):
            raise _OtherVersionError  # from a store that does not heed If-Match
        data = bytearray()
        async for chunk in answer.stream(min_chunk_size=CHUNK_BYTES):
            data += chunk
            if len(data) > size:
                break
        if len(data) != size:
            raise self._failed(store, "more or less bytes than the store named")
        encoding = str(answer.attributes.get("Content-Encoding", ""))
        return await asyncio.to_thread(inflated, data, encoding, self._max_bytes) if encoding else bytes(data)

    def _failed(self, store: _Store, cause: str) -> PostError:
        """Logs the failure, and the same again after a minute at the earliest."""
        now = time.monotonic()
        if now - self._said.get((store.name, cause), -LOG_S) >= LOG_S:
            self._said[store.name, cause] = now
            log.warning("image_store_failed", store=store.name, cause=cause)
        return PostError(Reason.IMAGE_UNAVAILABLE, f"the store {store.name} failed: {cause}")


def _store(name: str, settings: StoreSettings, media: MediaSettings) -> _Store:
    scheme, bucket, prefix = segments_of(settings.url)
    return _Store(name, (scheme, bucket), prefix, client_of(_variable(name), bucket, settings, media.timeout_s))


def _cause(error: Exception) -> str:
    """What failed, in words of ours: the library's text has the key in it, and what the store answered."""
    text = f"{error}"
    if status := _STATUS.search(text):
        return f"status {status[1]}"
    if "redirect without LOCATION" in text:
        return "a redirect to nowhere: the bucket is in another region"
    if "error sending request" in text or "error trying to connect" in text:
        return "not reached, or its certificate is not valid"
    return type(error).__name__


def _variable(name: str) -> str:
    return f"MODERATION_MEDIA__STORES__{name.upper()}"
