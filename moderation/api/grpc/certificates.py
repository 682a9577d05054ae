"""The certificates of the API's port. Files that change are read again; broken files change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

from moderation.errors import ConfigError
from moderation.settings import AuthSettings

log = structlog.get_logger()


class Certificates:
    """The certificates of the settings, as last read without an error."""

    def __init__(self, settings: AuthSettings) -> None:
        """Raises ConfigError."""
        self._settings = settings
        self._failed = ""  # the cause of the last failure, until a reading succeeds
        try:
            self._seen = self._stamp()
            self.current = self._read()
        except OSError as error:
            raise ConfigError(f"MODERATION_AUTH__TLS_*: cannot read {error.filename}: {error.strerror}") from None
        except BaseException as error:  # cryptography may raise a Rust panic, which is not an Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            # The cause only: a library's text may quote what it read.
            raise ConfigError(
                f"MODERATION_AUTH__TLS_*: these certificates and this key cannot be used ({type(error).__name__}): "
                "the files must be PEM, and the key must belong to the first certificate and have no password"
            ) from None

    def changed(self) -> Any:
        """The new configuration for gRPC; None: no change. Called by gRPC at each handshake, on a thread. Never raises.

        Files are replaced one after the other. In between, a key may not belong to its certificate.
        """
        try:
            now = self._stamp()
            if now == self._seen:
                return None
            current = self._read()
        except BaseException as error:  # noqa: BLE001  gRPC's core would get it
            cause = type(error).__name__
            if cause != self._failed:  # a line for each handshake would let anyone fill the log
                self._failed = cause
                log.warning("tls_certificates_not_refreshed", cause=cause)
            return None
        self._seen, self._failed, self.current = now, "", current
        return current

    def _paths(self) -> list[Path]:
        settings = self._settings
        return [path for path in (settings.tls_key, settings.tls_certificate, settings.tls_client_ca) if path]

    def _stamp(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in self._paths())

    def _read(self) -> Any:
        """Raises OSError, and ValueError or an error of cryptography for files that gRPC could not use."""
        key, chain, *ca = (path.read_bytes() for path in self._paths())
        certificate = load_pem_x509_certificates(chain)[0]
        if load_pem_private_key(key, password=None).public_key() != certificate.public_key():
            raise ValueError("the key belongs to another certificate")
        for authority in ca:
            load_pem_x509_certificates(authority)
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=ca[0] if ca else None)


def credentials(settings: AuthSettings) -> grpc.ServerCredentials | None:
    """The credentials of the port; None: no TLS. Raises ConfigError."""
    if settings.tls_certificate is None:
        return None
    certificates = Certificates(settings)
    return grpc.dynamic_ssl_server_credentials(
        certificates.current, certificates.changed, require_client_authentication=settings.tls_client_ca is not None
    )
