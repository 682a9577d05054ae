"""Broken certificates change nothing while an API runs, and an API does not start with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from structlog.testing import capture_logs

from moderation.api import role
from moderation.errors import ConfigError
from moderation.v1 import moderation_service_pb2 as pb
from tests.support.deployment import Deployment
from tests.support.key_server import a_key
from tests.support.lookups import Api, service


def other_key(deployment: Deployment) -> None:
    (deployment.folder / "server.key").write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())


def locked_key(deployment: Deployment) -> None:
    form = Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    (deployment.folder / "server.key").write_bytes(a_key().private_bytes(*form))


def write(name: str, content: bytes) -> Callable[[Deployment], None]:
    def change(deployment: Deployment) -> None:
        (deployment.folder / name).write_bytes(content)

    return change


def remove(deployment: Deployment) -> None:
    (deployment.folder / "server.pem").unlink()


BROKEN: dict[str, Callable[[Deployment], None]] = {
    "no certificate": write("server.pem", b"what is secret"),
    "empty": write("server.pem", b""),
    "cut": lambda deployment: write("server.pem", (deployment.folder / "server.pem").read_bytes()[:400])(deployment),
    "no key": write("server.key", b"-----BEGIN PRIVATE KEY-----\nd2hhdCBpcyBzZWNyZXQ=\n-----END PRIVATE KEY-----\n"),
    "another key": other_key,
    "a key with a password": locked_key,
    "gone": remove,
}


async def reached(running_api: Api, deployment: Deployment) -> None:
    """A new connection is made and answered."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(running_api.address, deployment.channel(), options=options) as channel:
        await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"), timeout=10)


async def test_files_that_are_broken_leave_the_last_good_certificate(running_api: Api, tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    running_api.set(auth=deployment.tls)
    good = {name: (tmp_path / name).read_bytes() for name in ("server.pem", "server.key")}
    async with running_api.running(deployment.channel()):
        for broken in BROKEN.values():
            with capture_logs() as logs:
                broken(deployment)
                for _ in range(3):
                    await reached(running_api, deployment)
            (line,) = [line for line in logs if line["event"] == "tls_certificates_not_refreshed"]
            assert line["cause"].isidentifier()
            restore(tmp_path, good)
            await reached(running_api, deployment)
        deployment.ca = trustme.CA()
        deployment.renew()
        await reached(running_api, deployment)


def restore(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("broken", BROKEN)
async def test_an_api_does_not_start_with_files_that_are_broken(running_api: Api, tmp_path: Path, broken: str) -> None:
    deployment = Deployment(tmp_path)
    BROKEN[broken](deployment)
    running_api.set(auth=deployment.tls)
    with pytest.raises(ConfigError, match=r"MODERATION_AUTH__TLS_\*: (these certificates|cannot read)") as caught:
        await role.serve(running_api.settings, running_api.stop)
    assert "secret" not in str(caught.value)
