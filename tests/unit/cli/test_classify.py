"""`moderation classify` takes every field of a post, and names what is wrong with one."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from moderation.cli.classify import classify, post_of_file, post_of_options
from moderation.errors import ConfigError, PostError
from moderation.settings import KafkaSettings, MediaSettings, Settings
from moderation.v1.post_pb2 import Post as PostMessage
from tests.support.builders import a_file

POLICIES = {
    "weapons": "applies_to: {surfaces: [comment, profile]}",
    "german": "applies_to: {languages: [de]}",
    "profiles": "applies_to: {surfaces: [profile]}",
    "comments": "applies_to: {surfaces: [comment]}",
}
POLICY = """
id: {id}
version: 1
title: {id}
question: Is this {id}?
violates: [{{id: S1, text: advertises}}]
thresholds: {{review: 0.5, remove: 0.9}}
{applies}
"""


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One policy for all posts, one for German posts, one for profiles and one for comments."""
    folder = tmp_path_factory.mktemp("policies")
    for id, applies in POLICIES.items():
        (folder / f"{id}.yaml").write_text(POLICY.format(id=id, applies=applies))
    return folder


def run(policies: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
    command = [sys.executable, "-m", "moderation", "classify", "--model", "fake", "--policies", str(policies), "--json"]
    return subprocess.run(
        [*command, *arguments], env=inherited, input=stdin, capture_output=True, timeout=120, check=False
    )


def asked(message: dict[str, Any]) -> set[str]:
    return {finding["policyId"] for finding in message["findings"]}


def test_options_are_fields_of_the_post(policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def verdict(**options: Any) -> dict[str, Any]:
        classify(text="violates:weapons", model_name="fake", folder=policies, as_json=True, **options)
        parsed: dict[str, Any] = json.loads(capsys.readouterr().out)
        return parsed

    picture = tmp_path / "a.png"
    picture.write_bytes(a_file())
    message = verdict(language="en", surface="comment", tenant="acme", image=[picture])
    assert asked(message) == {"weapons", "comments"}
    assert (message["tenant"], message["outcome"]) == ("acme", "OUTCOME_REMOVE")
    bare = verdict()
    assert asked(bare) == set(POLICIES)  # where language and surface are unknown, all policies apply
    assert message["contentDigest"] != bare["contentDigest"]


@pytest.mark.parametrize("by_stdin", [False, True])
def test_a_whole_post_comes_from_a_file_or_standard_input(
    policies: Path, tmp_path: Path, by_stdin: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    post = {
        "id": "42",
        "text": "violates:german",
        "tenant": "acme",
        "language": "de",
        "surface": "comment",
        "images": [{"data": base64.b64encode(a_file()).decode()}],
    }
    value = json.dumps(post).encode()
    (tmp_path / "post.json").write_bytes(value)
    if by_stdin:
        message = json.loads(run(policies, "--post", "-", stdin=value).stdout)
    else:
        classify(post_file=tmp_path / "post.json", model_name="fake", folder=policies, as_json=True)
        message = json.loads(capsys.readouterr().out)
    assert (message["postId"], message["tenant"], asked(message)) == ("42", "acme", {"weapons", "german", "comments"})
    assert message["decidingPolicy"] == "german"


@pytest.mark.parametrize(
    ("post", "reason", "message"),
    [
        (
            b'{"id": "1",\n "text" "x"}',
            "NOT_DECODABLE",
            "Failed to load JSON: Expecting ':' delimiter: line 2 column 9",
        ),
        (b"", "NOT_DECODABLE", "empty"),
        (b'{"id": "1", "imagse": []}', "NOT_DECODABLE", 'no field named "imagse"'),
        (b'{"text": "x"}', "INVALID_POST", "id"),
        (b'{"id": "1", "text": "\xff"}', "NOT_DECODABLE", "UTF-8"),
        (b'{"id": "1", "text": "' + b"x" * 2_000 + b'"}', "RECORD_TOO_LARGE", "larger than 1024 bytes"),
    ],
)
def test_a_wrong_post_is_refused_with_its_mistake(tmp_path: Path, post: bytes, reason: str, message: str) -> None:
    (tmp_path / "post.json").write_bytes(post)
    refused = post_of_file(tmp_path / "post.json", Settings(kafka=KafkaSettings(max_message_bytes=1024)))
    assert isinstance(refused, PostError)
    assert (refused.reason, message in str(refused)) == (reason, True), str(refused)
    assert f"{tmp_path}/post.json. " in str(refused) or reason == "RECORD_TOO_LARGE"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tenant", "x" * 129, "tenant is longer than 128 bytes"),
        ("language", "\n", "language holds a control character"),
    ],
)
def test_a_wrong_option_is_named(field: str, value: str, message: str) -> None:
    refused = post_of_options(json_format.ParseDict({"id": "1", field: value}, PostMessage()), MediaSettings())
    assert isinstance(refused, PostError)
    assert (refused.reason, str(refused)) == ("INVALID_POST", message)


def test_a_refused_post_gets_the_verdict_that_a_worker_would_publish(policies: Path, tmp_path: Path) -> None:
    (tmp_path / "post.json").write_text('{"id": "7", "tenant": "shop", "colour": "red"}')
    done = run(policies, "--post", str(tmp_path / "post.json"))
    message = json.loads(done.stdout)
    assert done.returncode == 1
    assert (message["postId"], message["tenant"], message["reason"]) == ("7", "shop", "NOT_DECODABLE")
    assert (message["outcome"], message["status"]) == ("OUTCOME_REVIEW", "STATUS_UNDETERMINED")
    assert message["problems"] == [{"reason": "NOT_DECODABLE", "path": "", "detail": "unknown field"}]
    assert 'the post is refused with NOT_DECODABLE: Message type "moderation.v1.Post" has no field named "colour"' in (
        done.stderr.decode()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "x", "post_file": Path("-")}, "leave out --text"),
        ({"surface": "comment"}, "the post is empty: give --text, --image"),
        ({"post_file": Path("/none/post.json")}, "/none/post.json: No such file"),
    ],
)
def test_options_that_do_not_go_together_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        classify(**arguments)


def test_a_broken_picture_is_judged_as_in_a_worker_and_named_by_its_file(
    policies: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(a_file())
    (tmp_path / "README.md").write_text("no picture")
    files = [tmp_path / "a.png", tmp_path / "README.md"]
    classify(text="violates:weapons", image=files, model_name="fake", folder=policies)
    printed = capsys.readouterr().out
    assert f"not judged: IMAGE_UNSUPPORTED, {tmp_path}/README.md: no picture\n" in printed
    assert "REMOVE DEGRADED by weapons; model fake" in printed
    with pytest.raises(SystemExit) as ended:
        classify(image=files[1:], model_name="fake", folder=policies)
    assert ended.value.code == 1, "nothing was judged"
    assert "REVIEW UNDETERMINED IMAGE_UNSUPPORTED; model fake" in capsys.readouterr().out


def test_policies_that_do_not_apply_are_listed(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classify(text="x", language="en", surface="profile", model_name="fake", folder=policies)
    assert "not asked: comments (surfaces: comment), german (languages: de)\n" in capsys.readouterr().out


def test_a_language_that_is_none_is_told(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classify(text="x", language="german", model_name="fake", folder=policies)
    assert "the language 'german' is not a BCP 47 tag: no policy is excluded by it" in capsys.readouterr().err


def test_a_picture_without_bytes_is_named(policies: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path}/a.png: the file is empty"):
        classify(image=[tmp_path / "a.png"], model_name="fake", folder=policies)
