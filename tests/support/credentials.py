"""What a secured API and its callers are configured with."""

from __future__ import annotations

import time
from pathlib import Path

import jwt
import trustme
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


class Credentials:
    """A CA, a certificate of the API that it has signed, and a key that signs tokens, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.ca = folder / "ca.pem"
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        (folder / "server.key").write_bytes(certificate.private_key_pem.bytes())
        (folder / "server.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        key = generate_private_key(SECP256R1())
        (folder / "jwt.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        self._key = key
        self._folder = folder
        self.good_token = folder / "good.token"
        self.good_token.write_text(self.token("good"))
        self.environment = {
            "MODERATION_AUTH__TLS_CERTIFICATE": str(folder / "server.pem"),
            "MODERATION_AUTH__TLS_KEY": str(folder / "server.key"),
            "MODERATION_AUTH__JWT_KEYS": str(folder / "jwt.pem"),
            "MODERATION_AUTH__JWT_AUDIENCE": "moderation",
            "MODERATION_AUTH__JWT_ISSUER": "https://id",
        }

    def token(self, name: str) -> str:
        """A bearer token of this caller, valid for a day."""
        scope = "verdicts:read verdicts:list posts:write policies:read"
        claims = {"sub": name, "aud": "moderation", "iss": "https://id", "exp": time.time() + 86_400, "scope": scope}
        return jwt.encode(claims, self._key, "ES256")
