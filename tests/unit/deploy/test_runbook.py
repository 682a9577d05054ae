"""The runbook can be followed at night: it leads to each alert, and each of its commands is run by a test."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support import runbook
from tests.support.credentials import Credentials

PAGE = runbook.PAGE.read_text()
RUN = ("kubectl", "moderation", r"kafka-[a-z-]+\.sh", "rm")  # by deploy/test_runbook.py and e2e/test_runbook.py
PROGRAM = re.compile(r"(kubectl|moderation|kafka-[a-z-]+\.sh|docker|curl|openssl|chronyc|nvidia-smi|SELECT|py-spy)\b")


def test_each_command_is_run_by_a_test_or_says_why_not() -> None:
    tried = {code for program in RUN for code in runbook.codes() if runbook.commands_of(program, code)}
    known = tried | {*runbook.queries(), *runbook.UNTRIED, *runbook.ELSEWHERE}
    assert {language for language, _ in runbook.FENCE.findall(PAGE)} == {"sh"}
    lines = {line.strip() for block in runbook.FENCE.findall(PAGE) for line in block[1].splitlines() if line.strip()}
    typed = lines | {code for code in runbook.codes() if PROGRAM.match(code) and " " in code}
    assert len(typed) > 40
    assert sorted(typed - known) == []


@pytest.mark.parametrize("command", [*runbook.UNTRIED, *runbook.ELSEWHERE])
def test_a_command_with_an_exception_is_there(command: str) -> None:
    assert command in runbook.codes()


def test_words_to_fill_in_are_explained() -> None:
    table = PAGE.partition("| word | stands for |")[2].partition("\n\n")[0]
    explained = {
        word for cell in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for word in re.findall(r"\w+", cell)
    }
    commands = [code for program in RUN for code in runbook.commands(program)] + [*runbook.ELSEWHERE]
    commands = [command for command in commands if not command.startswith("SELECT")]
    reasons = {word for command in commands for word in re.findall(r"--reason (\w+)", command)}
    assert {word for command in commands for word in runbook.PLACEHOLDER.findall(command)} - reasons == explained


def test_commands_for_kafka_s_tools_say_how_to_log_in() -> None:
    commands = runbook.commands(RUN[2])
    assert len(commands) > 5
    for command in commands:
        assert " --bootstrap-server KAFKA --command-config admin.properties " in command


def test_commands_of_kubectl_name_the_namespace() -> None:
    commands = runbook.commands("kubectl")
    assert len(commands) > 20
    for command in commands:
        assert command.startswith(("kubectl -n moderation ", "kubectl label namespace ")), command


def test_each_alert_is_under_one_symptom() -> None:
    table = PAGE.partition("## By symptom")[2].partition("\n## ")[0]
    rules = yaml.safe_load((runbook.PAGE.parent / "observe" / "rules.yaml").read_text())
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    links = re.findall(r"\[(\w+)\]\(#(\w+)\)", table)
    assert sorted(f"Moderation{name}" for name, _ in links) == sorted(alerts)
    assert all(anchor == f"moderation{name.lower()}" for name, anchor in links)


def test_the_end_of_a_certificate_is_printed(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: the runbook's command is NOT tried")
    Credentials(tmp_path)
    file = tmp_path / "server.pem"
    (command,) = [each for each in runbook.ELSEWHERE if each.startswith("openssl")]
    done = subprocess.run(runbook.typed(command, {"FILE": str(file)}), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("notAfter=")


def test_prometheus_takes_each_query(tmp_path: Path) -> None:
    """As the expression of a rule: with its own parser. test_rules.py looks at metrics, labels and values."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("no promtool (Debian: apt install prometheus): the runbook's queries are NOT tried")
    queries = runbook.queries()
    assert len(queries) > 40
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(queries)} rules found" in done.stdout
