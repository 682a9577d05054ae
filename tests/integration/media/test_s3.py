"""References to S3, as moto's server speaks it. It checks no signatures: `make test-stores` has servers that do."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from urllib.request import Request, urlopen

import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from moderation.settings import StoreSettings
from tests.support.stores import check


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with urlopen(Request(f"{url}/pictures", method="PUT"), timeout=10):  # noqa: S310  a bucket, on this machine
        pass
    yield url
    server.stop()


async def test_pictures_of_s3_are_read(moto: str) -> None:
    await check(StoreSettings(url="s3://pictures", endpoint=moto, access_key_id="id", secret=SecretStr("any")))
