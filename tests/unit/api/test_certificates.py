"""When the certificates of the API's port expire, as a metric and in the log."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs

from moderation.api.grpc.certificates import Certificates
from moderation.settings import AuthSettings

DAY = 86400.0


class Files:
    """The PEM files of an API, and a clock that a test sets."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.now = time.time()
        self.written = 0
        self.issue(90)

    def issue(self, days: float) -> float:
        """Writes a certificate for so many days from now. Returns its end."""
        end = datetime.datetime.fromtimestamp(int(self.now + days * DAY), datetime.UTC)
        leaf = self.ca.issue_cert("localhost", not_after=end)
        self.write("server.key", leaf.private_key_pem.bytes())
        self.write("server.pem", leaf.cert_chain_pems[0].bytes())
        return end.timestamp()

    def write(self, name: str, content: bytes) -> None:
        self.written += 1
        (self.folder / name).write_bytes(content)
        os.utime(self.folder / name, (self.written, self.written))  # two writes may share a tick of the clock

    def opened(self, **settings: Any) -> Certificates:
        own = {"tls_certificate": self.folder / "server.pem", "tls_key": self.folder / "server.key"}
        return Certificates(AuthSettings(**own, **settings), lambda: self.now)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def events(logs: list[Any]) -> list[tuple[str, str]]:
    return [(line["event"], line["log_level"]) for line in logs]


def test_the_end_is_that_of_the_files_also_before_a_handshake_takes_them_up(files: Files) -> None:
    end = files.issue(30)
    certificates = files.opened()
    assert certificates.end() == end
    renewed = files.issue(120)
    assert certificates.end() == renewed
    assert certificates.changed() is not None  # a scrape took nothing away from the handshake
    assert certificates.changed() is None
    assert certificates.end() == renewed


def test_broken_files_leave_the_end_of_the_certificate_that_serves(files: Files) -> None:
    end = files.issue(30)
    certificates = files.opened()
    for content in (b"", b"words", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        files.write("server.pem", content)
        assert certificates.end() == end
        assert certificates.changed() is None
    (files.folder / "server.pem").unlink()
    assert certificates.end() == end


def test_a_chain_ends_with_its_first_certificate_and_client_cas_with_their_last(files: Files) -> None:
    end = files.issue(10)
    sooner = (files.folder / "server.pem").read_bytes()
    files.issue(30)
    files.write("server.pem", (files.folder / "server.pem").read_bytes() + sooner)
    assert files.opened().end() == end
    end = files.issue(30)
    old = files.ca.issue_cert("old", not_after=datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC))
    files.write("ca.pem", old.cert_chain_pems[0].bytes() + files.ca.cert_pem.bytes())
    assert files.opened(tls_client_ca=files.folder / "ca.pem").end() == end
    files.write("ca.pem", old.cert_chain_pems[0].bytes())
    assert files.opened(tls_client_ca=files.folder / "ca.pem").end() < files.now


def test_a_certificate_that_expires_is_logged_once_before_and_once_after(files: Files) -> None:
    files.issue(8)
    with capture_logs() as logs:
        certificates = files.opened()
        certificates.changed()
        assert events(logs) == []
        for days in (2, 2, 5):
            files.now += days * DAY
            certificates.changed()
            certificates.changed()
        assert events(logs) == [("tls_certificate_expiring", "warning"), ("tls_certificate_expired", "error")]
        files.issue(3)
        certificates.changed()
        certificates.changed()
        files.issue(90)
        certificates.changed()
    assert events(logs)[2:] == [("tls_certificate_expiring", "warning")]


def test_an_api_that_starts_with_an_expired_certificate_says_so(files: Files) -> None:
    files.issue(-1)
    with capture_logs() as logs:
        files.opened()
    assert events(logs) == [("tls_certificate_expired", "error")]
