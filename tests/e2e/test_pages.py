"""The snippets of protos/README.md and policies/README.md run as they stand there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.commands import Service, produce
from tests.support.topics import committed_records

REPO = Path(__file__).parents[2]
PROTOS = (REPO / "protos" / "README.md").read_text()
POLICIES = (REPO / "policies" / "README.md").read_text()
SERVICE_CONFIG = REPO / "protos" / "service_config.json"


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language, in their order."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def run(*command: str, folder: Path) -> list[str]:
    """The lines of standard output. Fails with standard error unless the exit code is 0."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
    paths = {"PYTHONPATH": str(folder)}  # generated stubs come before the installed package
    done = subprocess.run(
        command, cwd=folder, env=inherited | paths, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def generated(folder: Path) -> None:
    """Stubs by the page's own command, as packages, so that they hide the installed package."""
    (command,) = [line for block in blocks(PROTOS, "sh") for line in block.splitlines() if "grpc_tools" in line]
    words = shlex.split(command.replace("-I protos", f"-I {REPO / 'protos'}"))
    files = [str(path) for path in sorted((REPO / "protos/moderation/v1").glob("*.proto"))]
    run(sys.executable, *words[1:-1], *files, folder=folder)
    for package in ("moderation", "moderation/v1"):
        (folder / package / "__init__.py").touch()


def test_producers_and_callers_in_python(service: Service, tmp_path: Path) -> None:
    produces, calls, configures = blocks(PROTOS, "python")
    generated(tmp_path)
    with service.worker() as worker, service.api() as api:
        worker.wait_for("worker_ready")
        address = f"127.0.0.1:{api.wait_for('api_ready')['port']}"
        names = {
            "localhost:9092": service.kafka,
            "localhost:50051": address,
            '"posts"': f'"{service.posts}"',
            '"verdicts"': f'"{service.verdicts}"',
        }
        for name, value in names.items():
            produces, calls = produces.replace(name, value), calls.replace(name, value)
        (verdict,) = run(sys.executable, "-c", produces, folder=tmp_path)
        assert re.match(r"43 OUTCOME_(ALLOW|REVIEW|REMOVE)", verdict)
        submitted, state, error = run(sys.executable, "-c", calls, folder=tmp_path)
        assert re.fullmatch(r"46 OUTCOME_(ALLOW|REVIEW|REMOVE)", submitted)
        assert state == "LOOKUP_STATE_FOUND"
        assert error.startswith("INVALID_ARGUMENT ")
        given = f"import grpc\naddress, service_config_json = {address!r}, {SERVICE_CONFIG.read_text()!r}\n"
        waits = "\ngrpc.channel_ready_future(channel).result(30)\nprint('ready')"
        assert run(sys.executable, "-c", given + textwrap.dedent(configures) + waits, folder=tmp_path) == ["ready"]


COMMANDS = [
    line.partition("  #")[0].strip()
    for block in blocks(POLICIES, "sh")
    for line in block.splitlines()
    if line.startswith("moderation ")
]


PAST = [command for command in COMMANDS if "verdicts-archive" in command]  # on a topic with verdicts


def test_the_page_for_policy_authors_has_commands() -> None:
    assert len(COMMANDS) >= 3


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as an author has it, for all commands of the page: what they write stays out of this one."""
    folder = tmp_path_factory.mktemp("checkout")
    for path in REPO.iterdir():
        if path.name != "policies" and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    shutil.copytree(REPO / "policies", folder / "policies")
    return folder


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in PAST])
def test_commands_for_policy_authors(checkout: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command)],
        cwd=checkout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


WAY = POLICIES.partition("\n## From an empty file")[2].partition("\n## ")[0]
PRESSED = ["v" * 30 + "q", "v" * 24 + "q"]  # as the page says
ONCE = re.compile(r"certificate [0-9a-f]{16}|until \d{4}-\d\d-\d\d")  # other ones in each run


def shown(text: str) -> list[str]:
    """The lines of an output, without what differs from run to run, and without blanks at their ends."""
    return [ONCE.sub("", line).rstrip() for line in text.splitlines()]


@pytest.mark.timeout(900)  # a dozen commands, most of which load the model
def test_the_way_from_an_empty_file_to_a_certified_policy(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    moderation = Path(sys.executable).with_name("moderation")
    written, line_of_yaml = blocks(WAY, "yaml")
    policy = checkout / "policies/demo/vehicles-sale.yaml"
    policy.write_text(written)
    (golden,) = blocks(WAY, "json")
    (checkout / "policies/demo/vehicles-sale.golden.jsonl").write_text(golden)

    def said(command: str, keys: str = "") -> list[str]:
        done = subprocess.run(
            [moderation, *shlex.split(command)[1:]], cwd=checkout, input=keys, capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode in {0, 1}, done.stderr
        return shown(done.stderr + done.stdout + done.stderr)  # the page has what a terminal mixes

    def shell(script: str) -> None:
        subprocess.run(["bash", "-e", "-c", script], cwd=checkout, check=True)

    keys = iter(PRESSED)
    seen = list[str]()
    for language, block in re.findall(r"```(console|sh)\n(.*?)```", WAY, re.DOTALL):
        if language == "sh":
            shell(block)
            continue
        command, _, output = block.replace("\\\n", "").partition("\n")
        command = command.removeprefix("$ ")
        if "--report" in command:
            policy.write_text(policy.read_text().replace("violates:\n", f"{line_of_yaml}violates:\n", 1))
        if " check " in command and command in seen:
            policy.write_text(policy.read_text().replace("status: draft", "status: live\ncertificate: required"))
        if " certify " in command and command in seen:
            again = "moderation policies label vehicles-sale.sample.jsonl --policies policies/demo --as anna"
            assert "54 of 80 are labelled, and kept: the same command goes on" in said(again, next(keys))
        printed = iter(said(command, next(keys) if " label " in command else ""))
        missing = [line for line in shown(output) if line != "..." and line not in printed]
        assert not missing, f"{command} does not print, in this order: {missing}"
        seen.append(command)
    assert len(seen) == len(re.findall("```console", WAY)) >= 8
    assert not list(keys)


def test_commands_on_past_traffic(service: Service, tmp_path: Path) -> None:
    assert len(PAST) >= 3
    values = [
        (b"1", json.dumps({"id": str(number), "text": "Cheap pills, write me"}).encode(), ()) for number in range(5)
    ]
    with service.worker() as worker:
        worker.wait_for("worker_ready")
        asyncio.run(produce(service.kafka, service.posts, values))
        asyncio.run(committed_records(service.kafka, service.verdicts, len(values)))
    for command in PAST:
        words = shlex.split(command.replace("verdicts-archive", str(tmp_path / "archive")))
        done = subprocess.run(
            [sys.executable, "-m", *words], capture_output=True, text=True, env=os.environ | service.environment,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "5 verdicts added" in done.stdout or "spam-scams" in done.stdout or '"verdicts": 5' in done.stdout
