"""The server of the keys can neither end nor freeze an API: a real process, and a server that misbehaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from moderation.v1 import moderation_service_pb2 as pb
from tests.support.commands import Role, Service
from tests.support.key_server import a_key, a_set, a_token, answer, faults, key_server, sending
from tests.support.lookups import a_free_address
from tests.support.lookups import service as stub_of
from tests.support.operations_port import ask

OLD, NEW = a_key(), a_key()
GOOD = a_set(old=OLD)
FAULTS = faults(GOOD)
READ_S = 10.0  # as in moderation/api/keys.py


def with_keys(service: Service, url: str, ca: Path, **more: str) -> Service:
    extra = {
        "MODERATION_AUTH__JWT_KEYS": url,
        "MODERATION_AUTH__JWT_AUDIENCE": "moderation",
        "MODERATION_AUTH__JWT_ISSUER": "https://id",
        "MODERATION_AUTH__JWT_REFRESH_S": "0.2",
        "SSL_CERT_FILE": str(ca),
        "NO_PROXY": "127.0.0.1",
        **more,
    }
    return replace(service, extra=extra)


async def code(port: int, token: str) -> grpc.StatusCode:
    """Of a lookup with this token."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            metadata = (("authorization", f"Bearer {token}"),)
            await stub_of(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"), metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


def causes(api: Role) -> list[str]:
    return [event["cause"] for event in api.events if event["event"] == "jwt_keys_not_refreshed"]


def until(api: Role, condition: Callable[[], bool], seconds: float = 30) -> None:
    """Looks four times a second: an address that is refused more often is hung up on."""
    end = time.monotonic() + seconds
    while not condition():
        time.sleep(0.25)
        assert api.process.poll() is None, api.log
        assert time.monotonic() < end, api.log


def test_no_answer_of_the_server_of_the_keys_ends_or_freezes_the_api(service: Service, tmp_path: Path) -> None:
    ops = a_free_address()
    with key_server(tmp_path) as server:
        server.serve = sending(answer(GOOD))
        some = with_keys(service, server.url, server.ca, MODERATION_OPS__LISTEN=ops)
        with some.api() as api:
            port = api.wait_for("api_ready")["port"]
            old, new = a_token(OLD, "old"), a_token(NEW, "new")

            def status(token: str) -> grpc.StatusCode:
                return asyncio.run(code(port, token))

            assert (status(old), status(new)) == (grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED)
            for fault in ("cut chunks", "bad status", "deep JSON", "no keys", "endless body", "slow body"):
                known, begun = len(causes(api)), time.monotonic()
                server.serve = FAULTS[fault]
                until(api, lambda known=known: len(causes(api)) > known)  # type: ignore[misc]
                assert time.monotonic() - begun < READ_S + 5
                assert status(old) is grpc.StatusCode.OK
            assert {"IncompleteRead", "BadStatusLine", "RecursionError", "TimeoutError"} <= set(causes(api))
            assert "what a server says" not in api.log
            age = next(
                line for line in ask(ops, "/metrics")[1].splitlines() if line.startswith("moderation_jwt_keys_age")
            )
            assert READ_S - 1 < float(age.split()[1]) < 120
            server.serve = sending(answer(a_set(new=NEW)))
            until(api, lambda: status(new) is grpc.StatusCode.OK)
            assert status(old) is grpc.StatusCode.UNAUTHENTICATED
            server.serve, accepted = FAULTS["silence"], server.accepted
            until(api, lambda: server.accepted > accepted + 1)
            begun = time.monotonic()
            assert api.stop() == 0  # a reading that hangs does not hold it
            assert time.monotonic() - begun < READ_S


@pytest.mark.parametrize("fault", ["cut chunks", "deep JSON", "silence"])
def test_an_api_does_not_start_without_keys_and_says_so_in_time(service: Service, tmp_path: Path, fault: str) -> None:
    with key_server(tmp_path) as server:
        server.serve = FAULTS[fault]
        with with_keys(service, server.url, server.ca, MODERATION_KAFKA__CONNECT_TIMEOUT_S="5").api() as api:
            assert api.wait(60) == 2
            assert "cannot read keys" in api.wait_for("configuration_rejected")["message"]
