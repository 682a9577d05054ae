"""The client of a model server: where requests go and with which key, whatever the environment says."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI
from structlog.testing import capture_logs

from moderation.errors import ConfigError
from moderation.models.remote import open_model
from moderation.models.remote.client import client_of
from moderation.settings import ModelSettings
from tests.support.json_server import JsonServer, Request

SECRET = "sk-0123456789"  # noqa: S105  no secret
ENVIRONMENT = {
    "OPENAI_API_KEY": "sk-environment",
    "OPENAI_ADMIN_KEY": "sk-admin",
    "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
    "OPENAI_ORG_ID": "org-environment",
    "OPENAI_PROJECT_ID": "proj-environment",
    "OPENAI_CUSTOM_HEADERS": "X-Environment: yes\nAuthorization: Bearer sk-header",
    "OPENAI_LOG": "debug",
}


@pytest.fixture
def server() -> Iterator[JsonServer]:
    def answer(request: Request) -> tuple[int, Any]:
        return (307, b"") if request.body.get("moved") else (200, {"ok": True})

    with JsonServer(answer) as server:
        yield server


async def post(client: AsyncOpenAI, **body: object) -> None:
    await client.post("/anything", cast_to=object, body=body)


def a_client(server: JsonServer, **settings: Any) -> AsyncOpenAI:
    return client_of(ModelSettings(name="openai:m", url=server.url, **settings))


@pytest.mark.parametrize(
    ("key", "sent"), [(SECRET, f"Bearer {SECRET}"), (f" {SECRET}\n", f"Bearer {SECRET}"), ("", None), (" ", None)]
)
async def test_the_environment_changes_no_request(
    server: JsonServer, key: str, sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    async with a_client(server, api_key=key) as client:
        await post(client)
    (request,) = server.requests
    assert request.path == "/v1/anything"
    assert request.headers.get("authorization") == sent
    assert "environment" not in str(request.headers)
    assert not {"openai-organization", "openai-project"} & request.headers.keys()


async def test_a_key_file_is_read_for_each_request(server: JsonServer, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\n")
    async with a_client(server, api_key_file=file) as client:
        await post(client)
        file.write_text("sk-next")
        await post(client)
        file.unlink()
        with capture_logs() as logs:
            await post(client)
    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == [f"Bearer {SECRET}", "Bearer sk-next", "Bearer sk-next"]
    assert [entry["event"] for entry in logs] == ["model_key_unreadable"]


async def test_a_redirect_is_not_followed(server: JsonServer) -> None:
    async with a_client(server, api_key=SECRET) as client:
        with pytest.raises(APIStatusError):
            await post(client, moved=True)
    assert len(server.requests) == 1


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"two\nlines", b"\xff\xfe", "schlüssel".encode()])
def test_a_file_without_one_key_is_refused_and_not_quoted(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="MODERATION_MODEL__API_KEY_FILE") as caught:
        client_of(ModelSettings(name="openai:m", url="http://127.0.0.1/v1", api_key_file=file))
    assert str(file) in str(caught.value)
    assert not {"two", "schl"} & set(str(caught.value).split())


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing cannot be read: No such file or directory"):
        client_of(ModelSettings(name="openai:m", url="http://127.0.0.1/v1", api_key_file=tmp_path / "missing"))


def test_two_keys_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="remove one"):
        client_of(ModelSettings(name="openai:m", url="http://h/v1", api_key_file=tmp_path / "key", api_key=SECRET))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "needs MODERATION_MODEL__URL"),
        ("api.openai.com/v1", "must begin with http"),
        ("ftp://host/v1", "must begin with http"),
        ("http:///v1", "must begin with http"),
        (f"https://user:{SECRET}@host/v1", "no user name or password"),
        (f"https://{SECRET}@host/v1", "no user name or password"),
        (f"https://host/v1?key={SECRET}", "without"),
        ("https://host/v1#part", "without"),
        ("https://host/ v1", "without"),
        ("https://host:port/v1", "is no URL"),
        ("https://[::1/v1", "is no URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_not_quoted(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        open_model(ModelSettings(name="openai:m", url=url))
    assert SECRET not in str(caught.value)


def test_a_name_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="after the colon"):
        open_model(ModelSettings(name="openai:", url="http://host/v1"))


async def test_the_library_logs_no_request(server: JsonServer, caplog: pytest.LogCaptureFixture) -> None:
    names = {"openai", "httpx2", "httpcore2"}
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)  # as OPENAI_LOG=debug and a library may
    async with a_client(server, api_key=SECRET) as client:
        with caplog.at_level(logging.DEBUG):
            await post(client, content="a post")
    assert [record for record in caplog.records if record.name.partition(".")[0] in names] == []


def test_a_remote_model_needs_no_torch() -> None:
    program = (
        "import sys; from moderation.models import remote; from moderation.settings import ModelSettings;"
        "remote.open_model(ModelSettings(name='openai:m', url='http://127.0.0.1:1/v1'));"
        "print(*({'torch', 'transformers', 'tokenizers', 'numpy'} & sys.modules.keys()))"
    )
    heavy = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    assert heavy.stdout == "\n"
