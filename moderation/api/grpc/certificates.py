"""The certificates that the API's port is opened with. Files that change are read again; broken ones change nothing."""

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
    """The files of the settings, as they were last good."""

    def __init__(self, settings: AuthSettings) -> None:
        """Raises ConfigError."""
        self._settings = settings
        self._failed = ""  # the cause of the last failure, until a reading succeeds
        try:
            self._seen = self._stamp()
            self.current = self._read()
        except OSError as error:
            raise ConfigError(f"MODERATION_AUTH__TLS_*: cannot read {error.filename}: {error.strerror}") from None
        except BaseException as error:  # whatever cryptography raises: a Rust panic is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            # The cause only: a library's text may quote what it read.
            raise ConfigError(
                f"MODERATION_AUTH__TLS_*: these certificates and this key cannot be used ({type(error).__name__}): "
                "the files are PEM, and the key belongs to the first certificate and has no password"
            ) from None

    def changed(self) -> Any:
        """The configuration for gRPC; None: no change. Called at each handshake, on a thread of gRPC's. Never raises.

        Files are replaced one after the other: a key that does not belong to its certificate is one such moment.
        """
        try:
            now = self._stamp()
            if now == self._seen:
                return None
            found = self._read()
        except BaseException as error:  # noqa: BLE001  it would end in gRPC's core
            cause = type(error).__name__
            if cause != self._failed:  # strangers make handshakes: a line for each would be theirs to write
                self._failed = cause
                log.warning("tls_certificates_not_refreshed", cause=cause)
            return None
        self._seen, self._failed, self.current = now, "", found
        return found

    def _paths(self) -> list[Path]:
        settings = self._settings
        return [path for path in (settings.tls_key, settings.tls_certificate, settings.tls_client_ca) if path]

    def _stamp(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in self._paths())

    def _read(self) -> Any:
        """Raises OSError, and ValueError or whatever cryptography raises for files that gRPC could not use."""
        key, chain, *ca = (path.read_bytes() for path in self._paths())
        certificate = load_pem_x509_certificates(chain)[0]
        if load_pem_private_key(key, password=None).public_key() != certificate.public_key():
            raise ValueError("the key is another certificate's")
        for authority in ca:
            load_pem_x509_certificates(authority)
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=ca[0] if ca else None)


def credentials(settings: AuthSettings) -> grpc.ServerCredentials | None:
    """What the port is opened with; None: in the clear. Raises ConfigError."""
    if settings.tls_certificate is None:
        return None
    certificates = Certificates(settings)
    return grpc.dynamic_ssl_server_credentials(
        certificates.current, certificates.changed, require_client_authentication=settings.tls_client_ca is not None
    )
