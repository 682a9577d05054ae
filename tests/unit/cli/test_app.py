"""The command line takes any bytes: as arguments, in the environment, and on a terminal that shows few characters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moderation.cli.app import _run
from moderation.errors import ConfigError

BYTES = b"\xff\xe4"  # valid in no encoding that says so of itself; not UTF-8


def ran(*arguments: bytes | str, **environment: bytes | str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    inherited = {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}
    kept = {name: value for name, value in inherited.items() if not name.startswith((b"MODERATION_", b"LC_", b"LANG"))}
    given = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
    command = [sys.executable, "-m", "moderation", *arguments]
    done = subprocess.run(command, env=kept | given, capture_output=True, timeout=60, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_text_that_is_not_utf8_ends_a_command_with_2() -> None:
    assert ran("get", "1", BYTES) == (2, "", "moderation: post_ids: its bytes are not UTF-8; write it in UTF-8\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("submit", "--text", BYTES), "--text"),
        (("watch", "--policy", BYTES), "--policy"),
        (("model", "info", BYTES), "folder"),
    ],
)
def test_a_text_that_is_not_utf8_is_named(
    arguments: tuple[bytes | str, ...], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["moderation", *map(os.fsdecode, arguments)])
    with pytest.raises(ConfigError, match=f"^{named}: its bytes are not UTF-8; write it in UTF-8$"):
        _run()


def test_a_file_may_have_any_name(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/:fire:" + BYTES  # which Rich would make an emoji of
    os.mkdir(folder)
    code, _, said = ran("policies", "check", folder)
    assert code == 2
    assert f"{tmp_path}/:fire:" in said
    assert "fault of the program" not in said
    code, _, said = ran("submit", "--image", folder + b"/none.png", "--api", "127.0.0.1:1")
    assert (code, said) == (2, f"moderation: {tmp_path}/:fire:\\udcff\\udce4/none.png: No such file or directory\n")


def test_a_setting_that_is_not_utf8_is_named() -> None:
    code, _, said = ran("settings", MODERATION_KAFKA__GROUP=BYTES)
    assert (code, said) == (2, "moderation: MODERATION_KAFKA__GROUP: its bytes are not UTF-8; write it in UTF-8\n")
    assert ran("settings", MODERATION_POLICIES=b"/" + BYTES)[0] == 0, "the name of a folder"


def test_utf8_is_read_as_such_where_the_locale_has_ascii_alone() -> None:
    ascii_alone = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    code, _, said = ran("watch", "--outcome", "verbot\u00e9n", **ascii_alone)
    assert (code, said) == (2, "moderation: --outcome must be allow, review or remove, not 'verbot\u00e9n'\n")


def test_a_terminal_without_a_character_gets_it_escaped() -> None:
    few = {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "1"}
    code, printed, said = ran("top", "文件:9464", "--once", "--interval", "0.1", **few)
    assert (code, said) == (1, "")
    assert "http://\\u6587\\u4ef6:9464/metrics" in printed


def test_a_role_logs_wrong_settings_as_its_log_is() -> None:
    for role in (("worker",), ("dev", "kafka")):
        code, printed, said = ran(*role, MODERATION_LOG__FORMAT="json", MODERATION_KAFKA__BOOTSTRP="x")
        assert (code, printed) == (2, "")
        (event,) = [json.loads(line) for line in said.splitlines()]
        assert event["event"] == "configuration_rejected"
        assert "did you mean MODERATION_KAFKA__BOOTSTRAP?" in event["message"]
    code, _, said = ran("api", MODERATION_LOG__FORMAT="console", MODERATION_KAFKA__BOOTSTRP="x")
    assert code == 2
    assert "configuration_rejected" in said
    assert not said.startswith("{")


def test_the_demo_says_what_is_wrong_in_plain_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moderation", "demo", "--no-keep", "--policies", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"moderation: {tmp_path}/nowhere: no such folder; MODERATION_POLICIES names")
