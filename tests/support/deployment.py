"""What an API with TLS and bearer tokens is deployed with, and tokens for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEY = generate_private_key(SECP256R1())
EVERYTHING = "verdicts:read verdicts:list posts:write policies:read"


class Deployment:
    """A CA, a certificate of the API that it has signed, and the key of bearer tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.renew()
        public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / "jwt.pem").write_bytes(public)
        self.tls = {"tls_certificate": folder / "server.pem", "tls_key": folder / "server.key"}
        self.jwt = {"jwt_keys": str(folder / "jwt.pem"), "jwt_audience": "moderation", "jwt_issuer": "https://id"}
        self.mtls = self.tls | {"tls_client_ca": folder / "ca.pem"}

    def renew(self) -> None:
        certificate = self.ca.issue_cert("localhost", "127.0.0.1")
        (self.folder / "server.key").write_bytes(certificate.private_key_pem.bytes())
        (self.folder / "server.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))

    def channel(self, name: str = "") -> grpc.ChannelCredentials:
        """With a client certificate, if a name is given."""
        root = self.ca.cert_pem.bytes()
        if not name:
            return grpc.ssl_channel_credentials(root)
        certificate = self.ca.issue_cert(name)
        return grpc.ssl_channel_credentials(
            root, certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes()
        )


def token(**changed: Any) -> str:
    """A bearer token with every scope, and these claims changed."""
    defaults = {"sub": "svc", "aud": "moderation", "iss": "https://id", "exp": time.time() + 60, "scope": EVERYTHING}
    return jwt.encode(defaults | changed, KEY, "ES256")


def bearer(**changed: Any) -> dict[str, Any]:
    """Arguments of a call that send such a bearer token."""
    return {"metadata": (("authorization", f"Bearer {token(**changed)}"),)}
