"""A caller without a valid bearer token is refused, and a token permits what it says and no more."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from moderation import settings
from moderation.api.auth import READ, SCOPES, Authenticator, Caller, Credentials
from moderation.api.errors import RefusalKind, RefusedError
from moderation.errors import ConfigError
from moderation.settings import AuthSettings
from moderation.v1 import moderation_service_pb2 as pb

EC = generate_private_key(SECP256R1())
ED = Ed25519PrivateKey.generate()
PEM = EC.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def presented(*authorization: str | bytes) -> Credentials:
    """Credentials with these authorization headers."""
    return Credentials("ipv4:192.0.2.7", authorization=authorization)


def claims(**changed: Any) -> dict[str, Any]:
    defaults = {"sub": "svc", "aud": "moderation", "iss": "https://id", "exp": time.time() + 60, "scope": f"{READ} x"}
    return {name: value for name, value in (defaults | changed).items() if value is not None}


def signed(key: Any = EC, algorithm: str = "ES256", headers: Any = None, **changed: Any) -> Credentials:
    return presented("Bearer " + jwt.encode(claims(**changed), key, algorithm, headers))


@pytest.fixture
async def authenticator(tmp_path: Path) -> Authenticator:
    return await loaded(tmp_path, PEM)


async def loaded(folder: Path, keys: bytes, rate: float = 0, **changed: Any) -> Authenticator:
    (folder / "keys").write_bytes(keys)
    defaults = {"jwt_keys": str(folder / "keys"), "jwt_audience": "moderation", "jwt_issuer": "https://id"}
    authenticator = Authenticator(AuthSettings(**defaults | changed), rate)
    assert authenticator.keys
    await authenticator.keys.load()
    return authenticator


def refused(admit: Callable[[], object]) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        admit()
    return caught.value


def test_every_method_of_the_proto_needs_a_scope() -> None:
    assert SCOPES.keys() == {method.name for method in pb.DESCRIPTOR.services_by_name["ModerationService"].methods}


async def test_a_valid_token_names_the_caller(authenticator: Authenticator) -> None:
    call = signed(tenant="t1")
    caller = authenticator.admit(call, "GetVerdict").caller
    assert (caller.name, caller.tenant, caller.scopes) == ("svc", "t1", frozenset({READ, "x"}))
    assert authenticator.admit(call, "GetVerdict").caller is caller  # and is not checked again
    assert authenticator.admit(signed(scope=None, scp=[READ]), "GetVerdict").caller.tenant is None


@pytest.mark.parametrize(
    "call",
    [
        presented(),
        presented("Bearer"),
        presented("Bearer x"),
        presented("Basic eA=="),
        presented("Bearer a", "Bearer b"),
        presented("Bearer " + "x" * 100_000),
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
        presented("Bearer " + jwt.encode(claims(), "", "none")),
    ],
)
async def test_an_invalid_token_is_refused_without_a_cause(authenticator: Authenticator, call: Credentials) -> None:
    error = refused(lambda: authenticator.admit(call, "GetVerdict"))
    assert (error.kind, error.reason) == (RefusalKind.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert error.__cause__ is None


async def test_a_public_key_is_no_shared_secret(authenticator: Authenticator) -> None:
    header, payload, _ = jwt.encode(claims(), "k" * 32, "HS256").split(".")
    import hashlib
    import hmac
    from base64 import urlsafe_b64encode

    forged = hmac.new(PEM, f"{header}.{payload}".encode(), hashlib.sha256).digest()
    token = f"{header}.{payload}.{urlsafe_b64encode(forged).rstrip(b'=').decode()}"
    call = presented(f"Bearer {token}")
    assert refused(lambda: authenticator.admit(call, "GetVerdict")).kind is RefusalKind.UNAUTHENTICATED


async def test_a_token_is_valid_until_it_expires(authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch) -> None:
    call = signed()
    authenticator.admit(call, "GetVerdict")
    later = time.time() + 120
    monkeypatch.setattr(time, "time", lambda: later)
    assert "expired" in str(refused(lambda: authenticator.admit(call, "GetVerdict")))


async def test_a_scope_is_needed(authenticator: Authenticator) -> None:
    error = refused(lambda: authenticator.admit(signed(), "ModeratePost"))
    assert (error.kind, error.reason) == (RefusalKind.FORBIDDEN, "MISSING_SCOPE")
    assert error.metadata == {"scope": "posts:write"}


def test_a_caller_of_a_tenant_sees_no_other_tenant() -> None:
    bound, free = Caller("a", "t1"), Caller("b")
    assert (bound.tenant_of(None), bound.tenant_of("t1")) == ("t1", "t1")
    assert (free.tenant_of(None), free.tenant_of("t1"), free.tenant_of("")) == (None, "t1", "")
    for other in ("t2", ""):
        assert refused(lambda other=other: bound.tenant_of(other)).reason == "OTHER_TENANT"  # type: ignore[misc]
    assert refused(lambda: free.tenant_of("x\n")).field == "tenant"


async def test_a_tenant_can_be_required(tmp_path: Path) -> None:
    authenticator = await loaded(tmp_path, PEM, tenant_required=True)
    assert refused(lambda: authenticator.admit(signed(), "GetVerdict")).kind is RefusalKind.UNAUTHENTICATED
    assert authenticator.admit(signed(tenant=""), "GetVerdict").caller.tenant == ""


async def test_a_caller_is_held_to_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    authenticator = await loaded(tmp_path, PEM, rate=10)
    call, other = signed(), signed(sub="other")
    for _ in range(10):
        authenticator.admit(call, "GetVerdict")
    error = refused(lambda: authenticator.admit(call, "GetVerdict"))
    assert (error.kind, error.reason) == (RefusalKind.EXHAUSTED, "RATE_LIMITED")
    assert error.retry_s == pytest.approx(0.1)
    authenticator.admit(other, "GetVerdict")
    now += 0.5
    authenticator.admit(call, "BatchGetVerdicts", calls=5)
    assert refused(lambda: authenticator.admit(call, "GetVerdict")).reason == "RATE_LIMITED"


async def test_keys_are_found_by_id_and_read_again(tmp_path: Path) -> None:
    def jwk(key: Any, id: str, **extra: str) -> Any:
        algorithm: Any = jwt.get_algorithm_by_name("ES256" if key is EC else "EdDSA")
        return json.loads(algorithm.to_jwk(key.public_key())) | {"kid": id} | extra

    secret = {"kty": "oct", "k": "a" * 43, "kid": "s", "alg": "HS256"}
    keys = {"keys": [jwk(EC, "ec"), jwk(ED, "unused", use="enc"), secret]}
    authenticator = await loaded(tmp_path, json.dumps(keys).encode())
    assert authenticator.keys
    authenticator.admit(signed(headers={"kid": "ec"}), "GetVerdict")
    new = signed(ED, "EdDSA", headers={"kid": "ed"}, sub="new")
    assert "is not known" in str(refused(lambda: authenticator.admit(new, "GetVerdict")))
    (tmp_path / "keys").write_text(json.dumps({"keys": [jwk(ED, "ed")]}))
    await authenticator.keys.load()
    authenticator.admit(new, "GetVerdict")


async def test_a_withdrawn_key_invalidates_its_tokens(authenticator: Authenticator, tmp_path: Path) -> None:
    assert authenticator.keys
    call = signed()
    caller = authenticator.admit(call, "GetVerdict").caller
    await authenticator.keys.load()
    assert authenticator.admit(call, "GetVerdict").caller is caller  # the same keys: nothing is checked again
    other = generate_private_key(SECP256R1())
    (tmp_path / "keys").write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    await authenticator.keys.load()
    assert refused(lambda: authenticator.admit(call, "GetVerdict")).kind is RefusalKind.UNAUTHENTICATED
    authenticator.admit(signed(other), "GetVerdict")


@pytest.mark.parametrize("moved", [False, True])
async def test_a_key_set_is_fetched_from_its_url_alone(
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
                with pytest.raises(ConfigError, match="cannot read keys"):
                    await authenticator.keys.load()
            else:
                await authenticator.keys.load()
                authenticator.admit(signed(headers={"kid": "ec"}), "GetVerdict")
        finally:
            server.shutdown()


@pytest.mark.parametrize("keys", [b"", b"{}", b'{"keys": []}', b"-----BEGIN PUBLIC KEY-----\nx", b"\xff" * 9])
async def test_broken_keys_are_a_configuration_error(tmp_path: Path, keys: bytes) -> None:
    with pytest.raises(ConfigError, match="MODERATION_AUTH__JWT_KEYS"):
        await loaded(tmp_path, keys)


@pytest.mark.parametrize(
    ("variables", "message"),
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
def test_settings_that_would_leave_the_api_open_are_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings.load({f"MODERATION_AUTH__{name}": value for name, value in variables.items()})
