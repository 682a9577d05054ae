"""The certificates of the API's port. Files that change are read again; broken files change nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates

from moderation.errors import ConfigError
from moderation.observability import metrics
from moderation.settings import AuthSettings

SOON_S = 7 * 86400.0  # before its end, a certificate is logged as one to renew

log = structlog.get_logger()


class Certificates:
    """The certificates of the settings, as last read without an error."""

    def __init__(self, settings: AuthSettings, clock: Callable[[], float] = time.time) -> None:
        """Raises ConfigError."""
        self._settings = settings
        self._clock = clock
        self._warned = ""  # the last event about the end of `current`
        self._failed = ""  # the cause of the last failure, until a reading succeeds
        try:
            self._seen = self._stamp()
            self.current, self._end = self._read()
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
        self._warn()

    def end(self) -> float:
        """When the certificates that the next handshake gets expire, since 1970. Called by a scrape. Never raises.

        A handshake takes up files that have changed, and without callers there is none.
        """
        try:
            return self._end if self._stamp() == self._seen else self._read()[1]
        except BaseException:  # noqa: BLE001  the files are broken: the handshake will keep what it has
            return self._end

    def changed(self) -> Any:
        """The new configuration for gRPC; None: no change. Called by gRPC at each handshake, on a thread. Never raises.

        Files are replaced one after the other. In between, a key may not belong to its certificate.
        """
        try:
            now = self._stamp()
            if now == self._seen:
                self._warn()
                return None
            current, end = self._read()
        except BaseException as error:  # noqa: BLE001  gRPC's core would get it
            cause = type(error).__name__
            if cause != self._failed:  # a line for each handshake would let anyone fill the log
                self._failed = cause
                log.warning("tls_certificates_not_refreshed", cause=cause)
            return None
        self._seen, self._failed, self.current, self._end, self._warned = now, "", current, end, ""
        self._warn()
        return current

    def _warn(self) -> None:
        """Logs once that the certificates will expire, and once that they have."""
        left_s = self._end - self._clock()
        if left_s <= 0 and self._warned != "tls_certificate_expired":
            self._warned = "tls_certificate_expired"
            log.error("tls_certificate_expired", expired_s=round(-left_s))
        elif 0 < left_s < SOON_S and not self._warned:
            self._warned = "tls_certificate_expiring"
            log.warning("tls_certificate_expiring", left_s=round(left_s))

    def _paths(self) -> list[Path]:
        settings = self._settings
        return [path for path in (settings.tls_key, settings.tls_certificate, settings.tls_client_ca) if path]

    def _stamp(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in self._paths())

    def _read(self) -> tuple[Any, float]:
        """Returns the configuration for gRPC, and when it expires.

        A chain holds until the first of its certificates expires, and client CAs until the last of them does.
        Raises OSError, and ValueError or an error of cryptography for files that gRPC could not use.
        """
        key, chain, *ca = (path.read_bytes() for path in self._paths())
        certificates = load_pem_x509_certificates(chain)
        if load_pem_private_key(key, password=None).public_key() != certificates[0].public_key():
            raise ValueError("the key belongs to another certificate")
        ends = [certificate.not_valid_after_utc for certificate in certificates]
        ends += [
            max(authority.not_valid_after_utc for authority in load_pem_x509_certificates(bundle)) for bundle in ca
        ]
        current = grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=ca[0] if ca else None)
        return current, min(ends).timestamp()


def credentials(settings: AuthSettings) -> grpc.ServerCredentials | None:
    """The credentials of the port; None: no TLS. Raises ConfigError."""
    if settings.tls_certificate is None:
        return None
    certificates = Certificates(settings)
    metrics.CERTIFICATE_EXPIRY.set_function(certificates.end)
    return grpc.dynamic_ssl_server_credentials(
        certificates.current, certificates.changed, require_client_authentication=settings.tls_client_ca is not None
    )
