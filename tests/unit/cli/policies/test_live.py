"""`moderation policies live` reads what roles report, and says what differs from a folder."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from moderation.cli.policies import live
from moderation.cli.policies.live import Use, differences
from moderation.observability import metrics, probes
from moderation.observability.probes import Liveness
from moderation.policies import PolicySet
from moderation.policies.loading import load_policy
from moderation.settings import OpsSettings
from moderation.wire import verdict_message
from tests.support.builders import a_finding, a_verdict
from tests.support.certificates import a_certificate, put
from tests.support.lookups import a_free_address

POLICY = """
id: {id}
version: {version}
title: {id}
question: Does this post mention {id}?
violates: [{{id: V1, text: mentions {id}}}]
thresholds: {{review: 0.5, remove: 0.9}}
status: {status}
"""


def a_policy(folder: Path, id: str, version: int = 1, status: str = "live") -> None:
    (folder / f"{id}.yaml").write_text(POLICY.format(id=id, version=version, status=status))


@pytest.fixture
def role(tmp_path: Path) -> Iterator[str]:
    """The address of a role's operations port. The role has the policies of `tmp_path` as they were at its start."""
    a_policy(tmp_path, "lakes")
    a_policy(tmp_path, "ponds", 3, "shadow")
    policies = PolicySet.load(tmp_path)
    metrics.CERTIFICATE.clear()  # a worker of another test may have had some
    metrics.use_policies(policies.digest, policies.versions, policies.read_ms / 1000)
    metrics.BUILD.labels("1.0", "worker").set(1)
    listen = a_free_address()
    server = probes._server(listen, probes.application(Liveness(OpsSettings())))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield listen
    server.shutdown()
    server.server_close()
    for metric in (metrics.POLICIES, metrics.POLICY, metrics.BUILD, metrics.CERTIFICATE):
        metric.clear()


def shown(capsys: pytest.CaptureFixture[str], *endpoints: str, folder: Path, as_json: bool = False) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        live.live(list(endpoints), folder=folder, as_json=as_json)
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().out


def test_a_role_with_the_set_of_the_folder(role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = shown(capsys, role, folder=tmp_path)
    assert code == 0
    digest = PolicySet.load(tmp_path).digest
    assert printed.count(f"digest {digest}\n  versions lakes 1, ponds 3 shadow\n") == 2  # here and there
    assert f": the set of {tmp_path}\n" in printed
    assert f"at {role}, since 20" in printed


def test_a_change_that_is_not_live_is_named(role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_policy(tmp_path, "lakes", 2)
    a_policy(tmp_path, "rivers")
    code, printed = shown(capsys, role, folder=tmp_path)
    assert code == 1
    assert f": another set: lakes is version 1, and 2 in {tmp_path}; rivers is missing\n" in printed
    code, printed = shown(capsys, role, folder=tmp_path, as_json=True)
    (place,) = json.loads(printed)["places"]
    assert (code, place["same"], place["versions"]) == (1, False, {"lakes": "1", "ponds": "3 shadow"})


def test_a_role_that_is_not_there_is_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a_policy(tmp_path, "lakes")
    code, printed = shown(capsys, "127.0.0.1:1", folder=tmp_path)
    assert (code, "at 127.0.0.1:1: Connection refused" in printed) == (1, True)


def test_the_same_versions_with_another_digest_say_why() -> None:
    here, there = Use("here", "a", {"lakes": "1"}), Use("there", "b", {"lakes": "1"})
    assert "changed without a new version" in differences(there, here)[0]


def test_verdicts_need_not_name_every_policy() -> None:
    here = Use("here", "a", {"lakes": "2", "ponds": "1"})
    assert differences(Use("verdicts", "b", {"lakes": "1"}, partial=True), here) == [
        "lakes is version 1, and 2 in here"
    ]


def test_a_policy_that_no_verdict_names_is_what_can_be_told() -> None:
    here = Use("here", "a", {"lakes": "1", "ponds": "1 shadow"})
    assert differences(Use("verdicts", "b", {"lakes": "1"}, partial=True), here) == [
        "none of these verdicts names ponds"
    ]


def test_certificates_are_named_with_how_they_stand(
    role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = a_certificate(load_policy(tmp_path / "lakes.yaml"))
    put(tmp_path, certificate)
    metrics.CERTIFICATE.labels("ponds", "shadow", "yes", "CERTIFICATE_MISSING", "").set(1)
    metrics.CERTIFICATE.labels("lakes", "live", "yes", "VALID", certificate.id).set(1)
    code, printed = shown(capsys, role, folder=tmp_path)
    assert code == 0
    assert f"  certificates lakes {certificate.id} holds, ponds CERTIFICATE_MISSING\n" in printed


def test_a_certificate_that_the_worker_has_not_read_yet_is_a_difference(
    role: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No digest of a set covers certificates, and a worker reads them when it starts."""
    renewed = a_certificate(load_policy(tmp_path / "lakes.yaml"))
    put(tmp_path, renewed)
    metrics.CERTIFICATE.labels("lakes", "live", "yes", "CERTIFICATE_EXPIRED", "0123456789abcdef").set(1)
    code, printed = shown(capsys, role, folder=tmp_path)
    named = f"lakes has 0123456789abcdef, and {renewed.id} in {tmp_path}"
    assert f": the set of {tmp_path}, with other certificates: {named}\n" in printed
    assert code == 1
    metrics.CERTIFICATE.clear()
    code, printed = shown(capsys, role, folder=tmp_path)
    assert (code, f"lakes has none, and {renewed.id} in {tmp_path}\n" in printed) == (1, True)


def test_the_latest_verdicts_name_what_held_when_they_were_decided() -> None:
    found = [
        verdict_message(a_verdict(findings=(a_finding("lakes"),), decision_state=state))
        for state in ("lakes=CERTIFICATE_EXPIRED", "lakes=0123456789abcdef")
    ]
    (use,) = live._of_verdicts(found)
    assert use.certificates == {"lakes": "CERTIFICATE_EXPIRED"}
    (use,) = live._of_verdicts(found[1:])
    assert use.certificates == {"lakes": "0123456789abcdef holds"}
