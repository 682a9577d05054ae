"""Which connections become known by their calls, and how calls beyond a share are held off."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from moderation.api.auth import Authenticator
from moderation.api.grpc import admission
from moderation.api.grpc.admission import Admission
from moderation.api.grpc.connections import BURST, Connections
from moderation.api.grpc.status import RefusedError
from moderation.settings import ApiSettings, AuthSettings
from tests.support.key_server import a_key, a_set, a_token

KEY = a_key()
PEER = "ipv4:192.0.2.7:5000"


class Call:
    """As much of a gRPC context as is looked at before a call is let in."""

    def __init__(self, token: str, peer: str = PEER) -> None:
        self._token = token
        self._peer = peer

    def invocation_metadata(self) -> Any:
        return [("authorization", f"Bearer {self._token}")]

    def peer(self) -> str:
        return self._peer


@pytest.fixture
async def calls(tmp_path: Path) -> Admission:
    file = tmp_path / "keys.json"
    file.write_bytes(a_set(key=KEY))
    authenticator = Authenticator(
        AuthSettings(jwt_keys=str(file), jwt_audience="moderation", jwt_issuer="https://id"), 1.0
    )
    assert authenticator.keys
    await authenticator.keys.load()
    return Admission(ApiSettings(), authenticator, Connections(ApiSettings(), guarded=True), 1_000)


def code_of(calls: Admission, call: Any, method: str = "GetVerdict") -> grpc.StatusCode:
    with pytest.raises(RefusedError) as caught:
        calls.caller(call, method)
    return caught.value.code


async def test_a_caller_without_the_scope_is_no_stranger(calls: Admission) -> None:
    good = a_token(KEY, "key")
    assert code_of(calls, Call("none")) is grpc.StatusCode.UNAUTHENTICATED
    assert not calls._connections._admitted
    assert code_of(calls, Call(good), "ListVerdicts") is grpc.StatusCode.PERMISSION_DENIED
    assert calls._connections._admitted == {PEER}


async def test_a_caller_over_its_rate_is_no_stranger(calls: Admission) -> None:
    good = a_token(KEY, "key")
    calls.caller(Call(good), "GetVerdict")  # type: ignore[arg-type]
    other = "ipv4:192.0.2.7:5001"
    assert code_of(calls, Call(good, other)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert other in calls._connections._admitted


@pytest.mark.parametrize("peer", ["unix:", "unix:/run/api.sock"])
async def test_a_stranger_on_a_unix_socket_is_always_answered(calls: Admission, peer: str) -> None:
    """Its connection cannot be found among the others, and so it cannot be closed."""
    for _ in range(2 * BURST):
        assert code_of(calls, Call("none", peer)) is grpc.StatusCode.UNAUTHENTICATED


async def test_calls_that_are_held_off_have_a_bound(calls: Admission, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MOST_HELD_OFF", 2)
    monkeypatch.setattr(admission, "OVERLOAD_S", 60.0)
    held = [asyncio.create_task(calls.hold_off()) for _ in range(2)]
    await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(RefusedError):
        await calls.hold_off()
    assert time.monotonic() - began < 30
    assert not any(task.done() for task in held)
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    freed = asyncio.create_task(calls.hold_off())
    await asyncio.sleep(0)
    assert not freed.done()
    freed.cancel()
