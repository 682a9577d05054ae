"""`moderation policies check` and `show`: what decides, in full, and what the model reads, word for word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moderation.cli.policies.check import check, show
from moderation.errors import ConfigError
from moderation.policies import PolicySet, prompts
from moderation.policies.loading import load_policy
from tests.support.certificates import a_certificate, put

LONG = "l" * 63  # the longest id
POLICY = """
id: {id}
version: 1
title: Lakes
applies_to: {{media: [image], languages: [de, pt-BR], surfaces: [profile]}}
question: Does this post mention a lake, or does it show one?
definitions: {{lake: a water without a stream}}
violates: [{{id: L1, text: mentions a lake}}]
allows: [{{id: L0, text: news about {id}}}]
thresholds: {{review: 0.5, remove: 0.8999, mass: 0.25}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for id in ("lakes", LONG):
        (tmp_path / f"{id}.yaml").write_text(POLICY.format(id=id))
    return tmp_path


def test_what_decides_is_printed_in_full(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(folder)
    printed = capsys.readouterr().out
    assert printed.splitlines()[:4] == [
        "lakes, version 1, live, severity medium",
        "  asks: Does this post mention a lake, or does it show one?",
        "  about: posts with image, in de or pt-BR, shown as profile",
        "  review from 0.5, remove from 0.8999, no answer below mass 0.25, on error review",
    ]
    assert f"{LONG}, version 1" in printed
    assert printed.splitlines()[-1] == f"2 policies, digest {PolicySet.load(folder).digest}"


def test_a_mistake_ends_the_check_with_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "lakes.yaml").write_text(POLICY.format(id="lakes").replace("version", "verzion"))
    with pytest.raises(SystemExit) as ended:
        check(folder)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert f"{folder}/lakes.yaml:3: verzion: there is no such key" in printed.err
    assert "digest" not in printed.out
    with pytest.raises(SystemExit):
        check(folder, as_json=True)
    checked = json.loads(capsys.readouterr().out)
    assert [each["line"] for each in checked["mistakes"] if each["kind"] == "error"] == [3]
    assert all(each["file"] and each["text"] for each in checked["mistakes"])
    assert checked["digest"] == ""


def test_a_mistake_in_a_golden_set_ends_the_check_with_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right = '{"post": {"text": "I saw a lake"}, "label": "violates"}'
    golden = folder / "lakes.golden.jsonl"
    golden.write_text(f"{right}\n")
    check(folder)
    golden.write_text(f'{right}\n{{"post": {{"text": "dry"}}, "lable": "allowed"}}\n')
    with pytest.raises(SystemExit) as ended:
        check(folder)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert f"{golden}:2: lable: there is no such key; did you mean label?" in printed.err
    assert PolicySet.load(folder).digest in printed.out, "the policies are sound, and roles start with them"


def test_a_golden_set_that_is_named_and_missing_is_an_error_for_its_author_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "lakes.yaml"
    path.write_text(f"{path.read_text()}golden: cases.jsonl\n")
    with pytest.raises(SystemExit) as ended:
        check(folder)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert f"{path}:11: golden: there is no such file beside the policy: write cases.jsonl" in printed.err
    assert printed.err.rstrip().splitlines()[-2:] == ["1 error", "6 warnings"], printed.err
    assert PolicySet.load(folder).digest in printed.out, "roles start without golden sets"


def test_json_has_what_decides(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(folder, as_json=True)
    checked = json.loads(capsys.readouterr().out)
    lakes = next(policy for policy in checked["policies"] if policy["id"] == "lakes")
    assert lakes["thresholds"] == {"review": 0.5, "remove": 0.8999, "mass": 0.25}
    assert lakes["applies_to"] == {"media": ["image"], "languages": ["de", "pt-BR"], "surfaces": ["profile"]}
    assert checked["digest"] == PolicySet.load(folder).digest


def test_a_policy_is_shown_as_the_model_reads_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(["lakes"], folder)
    printed = capsys.readouterr().out
    (policy,) = (policy for policy in PolicySet.load(folder).policies if policy.id == "lakes")
    assert printed.endswith(f" tokens; --model counts them\n{prompts.asked(policy.prose)}\n")
    assert "--- lakes, version 1, live, about " in printed
    assert f"{prompts.INSTRUCTIONS}\n{prompts.FENCED}\n~~~\n<the post's text>\n~~~\n" in printed
    assert LONG not in printed


def test_a_draft_alone_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in folder.iterdir():
        file.write_text(f"{file.read_text()}status: draft\n")
    show(["lakes"], folder)
    assert "--- lakes, version 1, draft, about " in capsys.readouterr().out


def test_tokens_are_those_of_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show(["lakes"], folder, "demo", as_json=True)
    (shown,) = json.loads(capsys.readouterr().out)["policies"]
    assert shown["most_tokens"] == 1024
    words = len(shown["reads"].split())
    assert words < shown["tokens"] < len(shown["reads"])
    check(folder, "demo")
    assert f"  {shown['tokens']} tokens of 1024 with demo\n" in capsys.readouterr().out


def test_an_id_that_the_folder_lacks_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="there is no policy ponds; the folder has lakes, "):
        show(["ponds"], folder)


def test_a_policy_that_stands_on_a_certificate_says_so_and_one_that_does_not_says_why(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "lakes.yaml"
    path.write_text(path.read_text() + "certificate: required\n")
    check(folder)
    assert "requires a certificate, and there is none: REMOVE becomes REVIEW" in capsys.readouterr().out
    certificate = a_certificate(load_policy(path))
    put(folder, certificate)
    check(folder)
    line = (
        f"  stands on certificate {certificate.id}: precision at least 0.95 with confidence 0.95 at remove, until 3026"
    )
    assert line in capsys.readouterr().out
    check(folder, as_json=True)
    rows = {row["id"]: row["certificate"] for row in json.loads(capsys.readouterr().out)["policies"]}
    assert rows[LONG] is None
    said = {name: rows["lakes"][name] for name in ("required", "standing", "id", "threshold", "expires_at")}
    ends = "3026-03-04T12:00:00Z"
    assert said == {
        "required": True, "standing": "VALID", "id": certificate.id, "threshold": 0.8999, "expires_at": ends
    }  # fmt: skip
    path.write_text(path.read_text().replace("mentions a lake", "names a lake"))
    check(folder)
    printed = capsys.readouterr()
    assert f"requires a certificate, and {certificate.id} does not hold (CERTIFICATE_OF_ANOTHER_SCORE)" in printed.out
    assert f"{folder}/lakes.certificate.json:5: warning: score_digest: it was given for other words" in printed.err


def test_a_broken_certificate_ends_the_check_with_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "lakes.certificate.json").write_text("{\n")
    with pytest.raises(SystemExit) as ended:
        check(folder)
    assert ended.value.code == 2
    assert f"{folder}/lakes.certificate.json:2: no certificate: invalid json" in capsys.readouterr().err
