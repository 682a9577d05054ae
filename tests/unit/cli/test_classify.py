"""`moderation classify` takes every field of a post, and names what is wrong with one."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from moderation.cli.classify import classify, post_of_file, post_of_options
from moderation.errors import ConfigError
from moderation.settings import KafkaSettings, MediaSettings, Settings
from moderation.v1.post_pb2 import Post as PostMessage
from tests.support.builders import a_file
from tests.support.logged import logging_restored

POLICIES = {
    "weapons": "",
    "german": "applies_to: {languages: [de]}",
    "profiles": "applies_to: {surfaces: [profile]}",
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


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """A command that runs in this process sets logging up for all of it."""
    with logging_restored():
        yield


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One policy for all posts, one for German posts and one for profiles."""
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


def verdict(policies: Path, *arguments: str, stdin: bytes = b"") -> dict[str, Any]:
    done = run(policies, *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def asked(message: dict[str, Any]) -> set[str]:
    return {finding["policyId"] for finding in message["findings"]}


def test_options_are_fields_of_the_post(policies: Path, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(a_file())
    options = ("--language", "en", "--surface", "comment", "--tenant", "acme", "--image", str(picture))
    message = verdict(policies, "--text", "violates:weapons", *options)
    assert asked(message) == {"weapons"}
    assert (message["tenant"], message["outcome"]) == ("acme", "OUTCOME_REMOVE")
    bare = verdict(policies, "--text", "violates:weapons")
    assert asked(bare) == set(POLICIES)  # where language and surface are unknown, all policies apply
    assert message["contentDigest"] != bare["contentDigest"]


@pytest.mark.parametrize("by_stdin", [False, True])
def test_a_whole_post_comes_from_a_file_or_standard_input(policies: Path, tmp_path: Path, by_stdin: bool) -> None:
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
    arguments = ("--post", "-" if by_stdin else str(tmp_path / "post.json"))
    message = verdict(policies, *arguments, stdin=value if by_stdin else b"")
    assert (message["postId"], message["tenant"], asked(message)) == ("42", "acme", {"weapons", "german"})
    assert message["decidingPolicy"] == "german"


@pytest.mark.parametrize(
    ("post", "message"),
    [
        (b'{"id": "1",\n "text" "x"}', "NOT_DECODABLE: Failed to load JSON: Expecting ':' delimiter: line 2 column 9"),
        (b"", "post.json is empty; a post looks like"),
        (b"\n", "post.json is empty; a post looks like"),
        (b'{"id": "1", "images": [{"data": "AAAA"}, {"data": "A*AA"}]}', "NOT_DECODABLE: images[1].data is not base64"),
        (b'{"id": "1", "imagse": []}', 'no field named "imagse"'),
        (b'{"text": "x"}', "INVALID_POST: id is empty"),
        (b'{"id": "1", "text": "\xff"}', "NOT_DECODABLE: "),
        (b'{"id": "1", "images": [{}]}', "INVALID_POST: images[0]"),
        (
            b'{"id": "1", "text": "' + b"x" * 2_000 + b'"}',
            "larger than 1024 bytes (MODERATION_KAFKA__MAX_MESSAGE_BYTES)",
        ),
    ],
)
def test_a_wrong_post_is_refused_with_its_mistake(tmp_path: Path, post: bytes, message: str) -> None:
    (tmp_path / "post.json").write_bytes(post)
    with pytest.raises(ConfigError) as caught:
        post_of_file(tmp_path / "post.json", Settings(kafka=KafkaSettings(max_message_bytes=1024)))
    assert message in str(caught.value)
    assert f"{tmp_path}/post.json" in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tenant", "x" * 129, "INVALID_POST: tenant is longer than 128 bytes"),
        ("language", "\n", "INVALID_POST: language holds a control character"),
        ("text", "xxx", "TEXT_TOO_LONG: text is longer than 2 characters"),
    ],
)
def test_a_wrong_option_is_named(field: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        post_of_options(
            json_format.ParseDict({"id": "1", field: value}, PostMessage()), MediaSettings(max_text_chars=2)
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


def test_an_image_that_is_none_is_named(policies: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(a_file())
    (tmp_path / "README.md").write_text("no picture")
    with pytest.raises(ConfigError, match=f"IMAGE_UNSUPPORTED: {tmp_path}/README.md: the image must be one of"):
        classify(image=[tmp_path / "a.png", tmp_path / "README.md"], model_name="fake", folder=policies)


def test_policies_that_do_not_apply_are_listed(policies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classify(text="x", language="not a language!", surface="profile", model_name="fake", folder=policies)
    assert "not asked: german (languages: de)\n" in capsys.readouterr().out
