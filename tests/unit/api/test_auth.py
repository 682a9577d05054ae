"""Nobody gets in whose token does not hold, and nobody further than it says."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from moderation import settings
from moderation.api.auth import READ, SCOPES, Authenticator, Caller
from moderation.api.grpc.status import RefusedError
from moderation.errors import ConfigError
from moderation.settings import AuthSettings
from moderation.v1 import moderation_service_pb2 as pb

EC = generate_private_key(SECP256R1())
ED = Ed25519PrivateKey.generate()
PEM = EC.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class Call:
    """As much of a gRPC context as a guard looks at."""

    def __init__(self, *authorization: str) -> None:
        self._metadata = [("authorization", value) for value in authorization]

    def invocation_metadata(self) -> Any:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:192.0.2.7:5000"


def claims(**changed: Any) -> dict[str, Any]:
    known = {"sub": "svc", "aud": "moderation", "iss": "https://id", "exp": time.time() + 60, "scope": f"{READ} x"}
    return {name: value for name, value in (known | changed).items() if value is not None}


def signed(key: Any = EC, algorithm: str = "ES256", headers: Any = None, **changed: Any) -> Any:
    return Call("Bearer " + jwt.encode(claims(**changed), key, algorithm, headers))


@pytest.fixture
async def authenticator(tmp_path: Path) -> Authenticator:
    return await guarded(tmp_path, PEM)


async def guarded(folder: Path, keys: bytes, rate: float = 0, **changed: Any) -> Authenticator:
    (folder / "keys").write_bytes(keys)
    known = {"jwt_keys": str(folder / "keys"), "jwt_audience": "moderation", "jwt_issuer": "https://id"}
    made = Authenticator(AuthSettings(**known | changed), rate)
    assert made.keys
    await made.keys.load()
    return made


def refused(admit: Callable[[], object]) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        admit()
    return caught.value


def test_every_method_of_the_proto_needs_a_scope() -> None:
    assert SCOPES.keys() == {method.name for method in pb.DESCRIPTOR.services_by_name["ModerationService"].methods}


async def test_a_token_that_holds_says_who_calls(authenticator: Authenticator) -> None:
    call = signed(tenant="t1")
    caller = authenticator.admit(call, "GetVerdict")
    assert (caller.name, caller.tenant, caller.scopes) == ("svc", "t1", frozenset({READ, "x"}))
    assert authenticator.admit(call, "GetVerdict") is caller  # and is not checked again
    assert authenticator.admit(signed(scope=None, scp=[READ]), "GetVerdict").tenant is None


@pytest.mark.parametrize(
    "call",
    [
        Call(),
        Call("Bearer"),
        Call("Bearer x"),
        Call("Basic eA=="),
        Call("Bearer a", "Bearer b"),
        Call("Bearer " + "x" * 100_000),
        signed(aud="another"),
        signed(aud=None),
        signed(iss="https://evil"),
        signed(iss=None),
        signed(exp=time.time() - 600),
        signed(exp=None),
        signed(nbf=time.time() + 600),
        signed(tenant=7),
        signed(generate_private_key(SECP256R1())),
        signed(ED, "EdDSA"),
        Call("Bearer " + jwt.encode(claims(), "", "none")),
    ],
)
async def test_a_token_that_does_not_hold_is_refused_without_a_reason(authenticator: Authenticator, call: Any) -> None:
    error = refused(lambda: authenticator.admit(call, "GetVerdict"))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert error.__cause__ is None


async def test_a_public_key_is_no_shared_secret(authenticator: Authenticator) -> None:
    header, payload, _ = jwt.encode(claims(), "k" * 32, "HS256").split(".")
    import hashlib
    import hmac
    from base64 import urlsafe_b64encode

    forged = hmac.new(PEM, f"{header}.{payload}".encode(), hashlib.sha256).digest()
    token = f"{header}.{payload}.{urlsafe_b64encode(forged).rstrip(b'=').decode()}"
    call: Any = Call(f"Bearer {token}")
    assert refused(lambda: authenticator.admit(call, "GetVerdict")).code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_token_is_good_until_it_expires(authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    call = signed()
    authenticator.admit(call, "GetVerdict")
    later = time.time() + 120
    monkeypatch.setattr(time, "time", lambda: later)
    assert "expired" in str(refused(lambda: authenticator.admit(call, "GetVerdict")))


async def test_a_scope_is_needed(authenticator: Authenticator) -> None:
    error = refused(lambda: authenticator.admit(signed(), "ModeratePost"))
    assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "MISSING_SCOPE")
    assert error.metadata == {"scope": "posts:write"}


def test_a_caller_of_a_tenant_sees_no_other() -> None:
    bound, free = Caller("a", "t1"), Caller("b")
    assert (bound.tenant_of(None), bound.tenant_of("t1")) == ("t1", "t1")
    assert (free.tenant_of(None), free.tenant_of("t1"), free.tenant_of("")) == (None, "t1", "")
    for other in ("t2", ""):
        assert refused(lambda other=other: bound.tenant_of(other)).reason == "OTHER_TENANT"  # type: ignore[misc]
    assert refused(lambda: free.tenant_of("x\n")).field == "tenant"


async def test_a_tenant_can_be_required(tmp_path: Path) -> None:
    authenticator = await guarded(tmp_path, PEM, tenant_required=True)
    assert refused(lambda: authenticator.admit(signed(), "GetVerdict")).code is grpc.StatusCode.UNAUTHENTICATED
    assert authenticator.admit(signed(tenant=""), "GetVerdict").tenant == ""


async def test_a_caller_has_so_many_calls_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    authenticator = await guarded(tmp_path, PEM, rate=10)
    call, other = signed(), signed(sub="other")
    for _ in range(10):
        authenticator.admit(call, "GetVerdict")
    error = refused(lambda: authenticator.admit(call, "GetVerdict"))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert error.retry_s == pytest.approx(0.1)
    authenticator.admit(other, "GetVerdict")
    now += 0.5
    authenticator.admit(call, "BatchGetVerdicts", cost=5)
    assert refused(lambda: authenticator.admit(call, "GetVerdict")).reason == "RATE_LIMITED"


async def test_a_key_set_is_read_by_key_id_and_anew(tmp_path: Path) -> None:
    def jwk(key: Any, id: str, **extra: str) -> Any:
        algorithm: Any = jwt.get_algorithm_by_name("ES256" if key is EC else "EdDSA")
        return json.loads(algorithm.to_jwk(key.public_key())) | {"kid": id} | extra

    secret = {"kty": "oct", "k": "a" * 43, "kid": "s", "alg": "HS256"}
    keys = {"keys": [jwk(EC, "ec"), jwk(ED, "unused", use="enc"), secret]}
    authenticator = await guarded(tmp_path, json.dumps(keys).encode())
    assert authenticator.keys
    authenticator.admit(signed(headers={"kid": "ec"}), "GetVerdict")
    new = signed(ED, "EdDSA", headers={"kid": "ed"}, sub="new")
    assert "key is not known" in str(refused(lambda: authenticator.admit(new, "GetVerdict")))
    (tmp_path / "keys").write_text(json.dumps({"keys": [jwk(ED, "ed")]}))
    await authenticator.keys.load()
    authenticator.admit(new, "GetVerdict")


async def test_a_key_that_is_withdrawn_takes_its_tokens_with_it(authenticator: Authenticator, tmp_path: Path) -> None:
    assert authenticator.keys
    call = signed()
    caller = authenticator.admit(call, "GetVerdict")
    await authenticator.keys.load()
    assert authenticator.admit(call, "GetVerdict") is caller  # the same keys: nothing is checked again
    other = generate_private_key(SECP256R1())
    (tmp_path / "keys").write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    await authenticator.keys.load()
    assert refused(lambda: authenticator.admit(call, "GetVerdict")).code is grpc.StatusCode.UNAUTHENTICATED
    authenticator.admit(signed(other), "GetVerdict")


@pytest.mark.parametrize("moved", [False, True])
async def test_a_key_set_is_fetched_and_from_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    ca = trustme.CA()
    trusting, serving = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.configure_trust(trusting)
    ca.issue_cert("localhost").configure_cert(serving)
    algorithm: Any = jwt.get_algorithm_by_name("ES256")
    keys = json.dumps({"keys": [json.loads(algorithm.to_jwk(EC.public_key())) | {"kid": "ec"}]}).encode()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if moved and self.path == "/" else 200)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(keys)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        server.socket = serving.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
        url = f"https://localhost:{server.server_port}/"
        authenticator = Authenticator(AuthSettings(jwt_keys=url, jwt_audience="moderation", jwt_issuer="https://id"), 0)
        assert authenticator.keys
        try:
            if moved:
                with pytest.raises(ConfigError, match="no keys can be read"):
                    await authenticator.keys.load()
            else:
                await authenticator.keys.load()
                authenticator.admit(signed(headers={"kid": "ec"}), "GetVerdict")
        finally:
            server.shutdown()


@pytest.mark.parametrize("keys", [b"", b"{}", b'{"keys": []}', b"-----BEGIN PUBLIC KEY-----\nx", b"\xff" * 9])
async def test_keys_that_are_none_are_a_mistake_in_the_settings(tmp_path: Path, keys: bytes) -> None:
    with pytest.raises(ConfigError, match="MODERATION_AUTH__JWT_KEYS"):
        await guarded(tmp_path, keys)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"JWT_KEYS": "f"}, "needs jwt_audience"),
        ({"JWT_KEYS": "http://x", "JWT_AUDIENCE": "a", "JWT_ISSUER": "i"}, "must not be an http URL"),
        ({"JWT_ALGORITHMS": "HS256"}, "must be among"),
        ({"JWT_ALGORITHMS": ""}, "must be among"),
        ({"TLS_KEY": "f"}, "belong together"),
        ({"TLS_CLIENT_CA": "f"}, "needs tls_certificate"),
        ({"TENANT_REQUIRED": "true"}, "tenants come from tokens"),
    ],
)
def test_settings_that_would_leave_a_door_open_are_refused(variables: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        settings.load({f"MODERATION_AUTH__{name}": value for name, value in variables.items()})
