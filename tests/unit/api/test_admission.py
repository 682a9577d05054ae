"""Which calls mark their connection as admitted, and how calls beyond a share are held off."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from moderation.api.auth import Authenticator
from moderation.api.errors import RefusalKind, RefusedError
from moderation.api.grpc import admission as admission_module
from moderation.api.grpc.admission import Admission
from moderation.api.grpc.connections import BURST, Connections
from moderation.settings import ApiSettings, AuthSettings
from tests.support.key_server import a_key, a_set, a_token

KEY = a_key()
PEER = "ipv4:192.0.2.7:5000"


class Call:
    """The part of a gRPC context that admission reads."""

    def __init__(self, token: str, peer: str = PEER) -> None:
        self._token = token
        self._peer = peer

    def invocation_metadata(self) -> Any:
        return [("authorization", f"Bearer {self._token}")]

    def peer(self) -> str:
        return self._peer


@pytest.fixture
async def admission(tmp_path: Path) -> Admission:
    file = tmp_path / "keys.json"
    file.write_bytes(a_set(key=KEY))
    authenticator = Authenticator(
        AuthSettings(jwt_keys=str(file), jwt_audience="moderation", jwt_issuer="https://id"), 1.0
    )
    assert authenticator.keys
    await authenticator.keys.load()
    return Admission(ApiSettings(), authenticator, Connections(ApiSettings(), expire_unadmitted=True), 1_000)


def refusal(admission: Admission, call: Any, method: str = "GetVerdict") -> RefusalKind:
    with pytest.raises(RefusedError) as caught:
        admission.admit(call, method)
    return caught.value.kind


async def test_a_caller_without_the_scope_is_authenticated(admission: Admission) -> None:
    good = a_token(KEY, "key")
    assert refusal(admission, Call("none")) is RefusalKind.UNAUTHENTICATED
    assert not admission._connections._admitted
    assert refusal(admission, Call(good), "ListVerdicts") is RefusalKind.FORBIDDEN
    assert admission._connections._admitted == {PEER}


async def test_a_caller_over_its_rate_is_authenticated(admission: Admission) -> None:
    good = a_token(KEY, "key")
    admission.admit(Call(good), "GetVerdict")  # type: ignore[arg-type]
    other = "ipv4:192.0.2.7:5001"
    assert refusal(admission, Call(good, other)) is RefusalKind.EXHAUSTED
    assert other in admission._connections._admitted


@pytest.mark.parametrize("peer", ["unix:", "unix:/run/api.sock"])
async def test_an_unauthenticated_caller_on_a_unix_socket_is_always_answered(admission: Admission, peer: str) -> None:
    """The socket of its connection cannot be found, so the connection cannot be closed."""
    for _ in range(2 * BURST):
        assert refusal(admission, Call("none", peer)) is RefusalKind.UNAUTHENTICATED


async def test_calls_that_are_held_off_have_a_bound(admission: Admission, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "MAX_HELD_OFF", 2)
    monkeypatch.setattr(admission_module, "OVERLOAD_S", 60.0)
    held = [asyncio.create_task(admission.hold_off()) for _ in range(2)]
    await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(RefusedError):
        await admission.hold_off()
    assert time.monotonic() - began < 30
    assert not any(task.done() for task in held)
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    freed = asyncio.create_task(admission.hold_off())
    await asyncio.sleep(0)
    assert not freed.done()
    freed.cancel()
