"""Clients of stores are made from settings alone, and ask the metadata endpoint only where that is set."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import obstore
import pytest

from moderation import settings
from moderation.errors import ConfigError
from moderation.media.fetching import Fetcher
from moderation.media.sources import store_clients
from moderation.settings import MediaSettings, StoreSettings
from moderation.types import Image
from tests.support.builders import a_file, a_post
from tests.support.object_server import ObjectServer, Request, an_object_server, head, whole

FILE = a_file()
KEY = base64.b64encode(b"key of an account").decode()
URLS = {"s3": "s3://bucket", "gs": "gs://bucket", "az": "az://bucket"}
PREFIX = "MODERATION_MEDIA__STORES__PICTURES"
METADATA = ("AWS_METADATA_ENDPOINT", "AZURE_MSI_ENDPOINT")


def a_store(scheme: str, **fields: Any) -> StoreSettings:
    return StoreSettings(url=URLS[scheme], **({"account": "shop"} if scheme == "az" else {}), **fields)


async def fetched(store: StoreSettings) -> bytes | None:
    fetcher = Fetcher(MediaSettings(stores={"pictures": store}, timeout_s=2.0))
    files = (await fetcher.fetch(a_post(images=(Image(uri=f"{store.url}/a.png"),)))).files
    return files.get(0)


@asynccontextmanager
async def servers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[ObjectServer, ObjectServer]]:
    """A store that has one object in each layout, and a metadata endpoint that the environment names."""
    async with an_object_server() as store, an_object_server() as metadata:
        store.answers |= dict.fromkeys(("/bucket/a.png", "/shop/bucket/a.png"), whole(FILE))
        for variable in METADATA:
            monkeypatch.setenv(variable, metadata.url)
        monkeypatch.setenv("GCE_METADATA_HOST", metadata.url.removeprefix("http://"))
        monkeypatch.setenv("HOME", "/nonexistent")  # where Google's own tools keep credentials
        yield store, metadata


def secrets(scheme: str, url: str) -> dict[str, str]:
    service_account = {"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": True}
    return {
        "s3": {"access_key_id": "id", "secret": "of s3"},
        "gs": {"secret": json.dumps(service_account | {"gcs_base_url": url})},
        "az": {"secret": KEY},
    }[scheme]


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
@pytest.mark.parametrize("kind", ["keys", "anonymous"])
async def test_the_metadata_endpoint_is_not_asked(kind: str, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with servers(monkeypatch) as (store, metadata):
        keys = secrets(scheme, store.url) if kind == "keys" else {}
        assert await fetched(a_store(scheme, credentials=kind, endpoint=store.url, **keys)) == FILE
        signed = {"authorization" in request.headers for request in store.requests}
        assert signed == {kind == "keys" and scheme != "gs"}, "an emulator's account of Google signs nothing"
        assert metadata.requests == []


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
async def test_the_metadata_endpoint_is_asked_where_that_is_set(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with servers(monkeypatch) as (store, metadata):
        assert await fetched(a_store(scheme, credentials="instance", endpoint=store.url)) is None
        assert metadata.requests, "so the tests above would see it"
        assert store.requests == []


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
async def test_without_credentials_in_the_environment_the_start_fails(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with servers(monkeypatch) as (store, metadata):
        with pytest.raises(ConfigError, match=f"{PREFIX}__CREDENTIALS: environment, but no variables"):
            await fetched(a_store(scheme, credentials="environment", endpoint=store.url))
        assert metadata.requests == store.requests == []


@pytest.mark.parametrize(
    ("scheme", "variables"),
    [
        ("s3", {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}),
        ("az", {"AZURE_STORAGE_ACCOUNT_KEY": KEY}),
    ],
)
async def test_credentials_of_the_environment_are_used_where_that_is_set(
    scheme: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    async with servers(monkeypatch) as (store, metadata):
        assert await fetched(a_store(scheme, credentials="environment", endpoint=store.url)) == FILE
        assert all("authorization" in request.headers for request in store.requests)
        assert metadata.requests == []


async def test_the_identity_of_a_pod_is_exchanged_for_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def keys(request: Request, writer: asyncio.StreamWriter) -> None:
        given = {"AccessKeyId": "podkey", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}
        body = json.dumps(given | {"Code": "Success"}).encode()
        head(writer, 200, Content_Length=len(body), Content_Type="application/json")
        writer.write(body)

    (tmp_path / "token").write_text("token of the pod")
    async with servers(monkeypatch) as (store, metadata), an_object_server() as agent:
        agent.answers["/v1/credentials"] = keys
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        assert await fetched(a_store("s3", credentials="environment", endpoint=store.url)) == FILE
        assert agent.requests[0].headers["authorization"] == "token of the pod"
        assert "podkey" in store.requests[0].headers["authorization"]
        assert metadata.requests == []


async def test_variables_of_the_cloud_change_no_store_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    async with servers(monkeypatch) as (store, _), an_object_server() as elsewhere:
        for variable in ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AZURE_STORAGE_ENDPOINT"):
            monkeypatch.setenv(variable, elsewhere.url)
        for variable, value in (
            ("AWS_ACCESS_KEY_ID", "others"),
            ("AWS_SECRET_ACCESS_KEY", "others"),
            ("AWS_SESSION_TOKEN", "others"),
            ("AWS_SKIP_SIGNATURE", "true"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_BUCKET", "others"),
            ("AZURE_STORAGE_ACCOUNT_NAME", "others"),
            ("AZURE_SKIP_SIGNATURE", "true"),
        ):
            monkeypatch.setenv(variable, value)
        for scheme in ("s3", "az"):
            keys = secrets(scheme, store.url)
            assert await fetched(a_store(scheme, endpoint=store.url, **keys)) == FILE
        signed = [request.headers["authorization"] for request in store.requests]
        assert "Credential=id/" in signed[0]
        assert "/us-east-1/s3/" in signed[0]
        assert "others" not in f"{signed} {[request.headers for request in store.requests]}"
        assert elsewhere.requests == []


async def test_a_rotated_secret_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_clients, "FRESH_S", 0.0)
    secret = tmp_path / "secret"
    secret.write_text("first\n")
    async with servers(monkeypatch) as (store, _):
        settings = a_store("s3", access_key_id="id", secret_file=secret, endpoint=store.url)
        client = store_clients.client_of(PREFIX, "bucket", settings, 2.0)
        signatures = []
        for value in ("first\n", "second"):
            secret.write_text(value)
            await obstore.head_async(client, "a.png")
            signatures.append(store.requests[-1].headers["authorization"])
        fixed = store_clients.client_of(PREFIX, "bucket", a_store("s3", endpoint=store.url, **secrets("s3", "")), 2.0)
        await obstore.head_async(fixed, "a.png")
    assert len(set(signatures)) == 2


async def test_a_secret_that_is_gone_costs_images_and_no_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("first")
    async with servers(monkeypatch) as (store, _):
        fetcher = Fetcher(
            MediaSettings(
                stores={"pictures": a_store("s3", access_key_id="id", secret_file=secret, endpoint=store.url)}
            )
        )
        secret.unlink()
        read = await fetcher.fetch(a_post(images=(Image(uri="s3://bucket/a.png"),)))
    assert [problem.reason for problem in read.problems.values()] == ["IMAGE_UNAVAILABLE"]


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_secret_file_that_is_not_there_fails_the_start(scheme: str, tmp_path: Path) -> None:
    store = a_store(scheme, access_key_id="id", secret_file=tmp_path / "gone")
    with pytest.raises(ConfigError, match=f"{PREFIX}: {tmp_path}/gone cannot be read"):
        Fetcher(MediaSettings(stores={"pictures": store}))


@pytest.mark.parametrize(
    ("scheme", "secret"), [("gs", "{secret"), ("gs", '{"secret": 1}'), ("az", "secret that is not base64")]
)
def test_a_secret_that_cannot_be_one_fails_the_start_and_is_not_shown(scheme: str, secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Fetcher(MediaSettings(stores={"pictures": a_store(scheme, secret=secret)}))
    assert PREFIX in str(caught.value)
    assert "secret" not in str(caught.value).replace("SECRET", "")


def test_two_stores_of_one_url_fail_the_start() -> None:
    store = StoreSettings(url="s3://bucket/a/", credentials="anonymous")
    with pytest.raises(ConfigError, match="another store has the same URL"):
        Fetcher(MediaSettings(stores={"one": store, "two": store}))


# Settings


def refused(**variables: str) -> str:
    with pytest.raises(ConfigError) as caught:
        settings.load({f"{PREFIX}__{name}": value for name, value in variables.items()})
    return str(caught.value)


def test_stores_come_from_the_environment_by_name() -> None:
    variables = {"URL": "S3://bucket/uploads/", "ACCESS_KEY_ID": "id", "SECRET": "hidden", "ENDPOINT": "https://s3/"}
    loaded = settings.load({f"{PREFIX}__{name}": value for name, value in variables.items()})
    store = loaded.media.stores["pictures"]
    assert (store.url, store.endpoint, store.scheme) == ("s3://bucket/uploads", "https://s3", "s3")
    assert "hidden" not in repr(loaded)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "PICTURES__URL: Field required"),
        ({"URL": "https://bucket"}, "PICTURES__URL: must begin with s3://, gs:// or az://"),
        ({"URL": "s3://"}, "PICTURES__URL: must be s3://bucket"),
        ({"URL": "s3://bucket/a//b"}, "PICTURES__URL: must be s3://bucket"),
        ({"URL": "s3://bucket", "SECRET": "hidden"}, "the keys of an s3 store need access_key_id"),
        ({"URL": "s3://bucket", "ACCESS_KEY_ID": "id"}, "needs secret_file or secret"),
        ({"URL": "s3://bucket", "SECRET": "hidden", "SECRET_FILE": "/a"}, "set secret_file or secret, not both"),
        ({"URL": "s3://bucket", "SECRET": "hidden", "CREDENTIALS": "instance"}, "takes no secret_file and no secret"),
        ({"URL": "az://bucket", "SECRET": "hidden"}, "an az store needs account"),
        ({"URL": "s3://bucket", "CREDENTIALS": "hidden"}, "PICTURES__CREDENTIALS: Input should be 'keys'"),
        ({"URL": "s3://bucket", "ENDPOINT": "hidden:9000"}, "PICTURES__ENDPOINT: must begin with https://"),
        ({"URL": "s3://bucket", "REGION": "a/../hidden"}, "PICTURES__REGION: String should match"),
        ({"URLL": "s3://bucket"}, "PICTURES__URLL: there is no such setting"),
    ],
)
def test_a_wrong_store_is_named_with_its_variable(variables: dict[str, str], message: str) -> None:
    text = refused(**(variables or {"REGION": "us-east-1"}))
    assert message in text
    assert "MODERATION_MEDIA__STORES__PICTURES" in text
    assert "hidden" not in text
