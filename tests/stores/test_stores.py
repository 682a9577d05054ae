"""Posts refer to objects of S3, Google Cloud Storage and Azure, as servers of others speak their protocols."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from pydantic import SecretStr

from moderation.settings import StoreSettings
from tests.stores.conftest import serving
from tests.stores.programs import azurite, fake_gcs_server, versitygw
from tests.support.stores import UNSIGNED, check

Progress = Callable[[str], object]


async def test_s3(tmp_path: Path, progress: Progress) -> None:
    program = versitygw(progress)
    (tmp_path / "files" / "pictures").mkdir(parents=True)
    (tmp_path / "facts").mkdir()

    def command(port: int) -> list[str]:
        folders = ["posix", "--sidecar", f"{tmp_path}/facts", f"{tmp_path}/files"]
        return [f"{program}", "--port", f"127.0.0.1:{port}", *folders]

    keys = {"ROOT_ACCESS_KEY": "id", "ROOT_SECRET_KEY": "of the store"}
    with serving(command, tmp_path / "log", keys) as address:
        store = StoreSettings(
            url="s3://pictures", endpoint=f"http://{address}", access_key_id="id", secret=SecretStr("of the store")
        )
        await check(store, {"secret": SecretStr("of another")}, UNSIGNED)


async def test_google(tmp_path: Path, progress: Progress) -> None:
    program = fake_gcs_server(progress)
    (tmp_path / "files" / "pictures").mkdir(parents=True)

    def command(port: int) -> list[str]:
        place = ["-scheme", "http", "-host", "127.0.0.1", "-port", f"{port}", "-public-host", f"127.0.0.1:{port}"]
        return [f"{program}", *place, "-backend", "memory", "-data", f"{tmp_path}/files"]

    with serving(command, tmp_path / "log") as address:

        async def put(key: str, data: bytes) -> None:
            """By Google's other protocol: the server takes no PUT."""
            query = urlencode({"uploadType": "media", "name": key})
            await asyncio.to_thread(send, f"http://{address}/upload/storage/v1/b/pictures/o?{query}", "POST", data)

        account = {"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": True}
        await check(
            StoreSettings(
                url="gs://pictures",
                endpoint=f"http://{address}",
                secret=SecretStr(json.dumps(account | {"gcs_base_url": f"http://{address}"})),
            ),
            put=put,
        )


async def test_azure(tmp_path: Path, progress: Progress) -> None:
    program = azurite(progress)
    key = base64.b64encode(b"the key of the account").decode()

    def command(port: int) -> list[str]:
        place = ["--blobHost", "127.0.0.1", "--blobPort", f"{port}", "--location", f"{tmp_path}"]
        return [*program, *place, "--silent", "--skipApiVersionCheck", "--disableTelemetry"]

    with serving(command, tmp_path / "log", {"AZURITE_ACCOUNTS": f"shop:{key}"}) as address:
        token = shared_access(key)
        url = f"http://{address}/shop"
        await asyncio.to_thread(send, f"{url}/pictures?restype=container&{token}", "PUT")
        store = StoreSettings(url="az://pictures", account="shop", endpoint=url, secret=SecretStr(key))
        another = {"secret": SecretStr(base64.b64encode(b"another key").decode())}
        await check(store, another, UNSIGNED)
        expired = {"secret": SecretStr(shared_access(key, "2020-01-01T00:00:00Z"))}
        await check(store.model_copy(update={"secret": SecretStr(f"?{token}")}), expired, UNSIGNED)


def send(url: str, method: str, data: bytes | None = None) -> None:
    """What the library does not do: to this machine."""
    with urlopen(Request(url, data, method=method), timeout=10):  # noqa: S310
        pass


def shared_access(key: str, expires: str = "2099-01-01T00:00:00Z") -> str:
    """A shared access signature for the whole account, by Azure's rules of version 2019-12-12."""
    fields = {"sp": "rwdlac", "ss": "b", "srt": "sco", "st": "", "se": expires, "sip": "", "spr": ""}
    fields["sv"] = "2019-12-12"
    text = "\n".join(["shop", *fields.values(), ""])
    signature = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    return urlencode({name: value for name, value in fields.items() if value} | {"sig": base64.b64encode(signature)})
