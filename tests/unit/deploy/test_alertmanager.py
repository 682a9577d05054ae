"""Where alerts go: Alertmanager's configuration and that of the guide, as its own programs read them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from moderation.dev.ports import HeldPorts
from tests.support.terminal import say_last

DEPLOY = Path(__file__).parents[3] / "deploy"
OBSERVE = DEPLOY / "observe"
GUIDE = (DEPLOY / "README.md").read_text()


def program(config: pytest.Config, name: str, package: str) -> str:
    if (path := shutil.which(name)) is None:
        reason = f"ALERTMANAGER NOT TESTED: no {name} (Debian: apt install {package})"
        say_last(config, reason)
        pytest.skip(reason)
    return path


@pytest.fixture
def amtool(pytestconfig: pytest.Config) -> str:
    return program(pytestconfig, "amtool", "prometheus-alertmanager")


def run(*command: str | Path, input: str | None = None) -> str:
    done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def receiver(amtool: str, config: Path, severity: str) -> str:
    """Whom an alert of this severity reaches."""
    labels = (f"severity={severity}", "installation=moderation", "alertname=ModerationWorkerDown")
    return run(amtool, "config", "routes", "test", f"--config.file={config}", *labels).strip()


def test_ours_is_valid_and_sends_nothing(amtool: str) -> None:
    config = OBSERVE / "alertmanager.yml"
    assert "SUCCESS" in run(amtool, "check-config", config)
    assert {receiver(amtool, config, severity) for severity in ("critical", "warning")} == {"nobody"}
    assert yaml.safe_load(config.read_text())["receivers"] == [{"name": "nobody"}]


def test_that_of_the_guide_pages_for_critical_alerts_alone(amtool: str, tmp_path: Path) -> None:
    (block,) = [block for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL) if "receivers:" in block]
    config = tmp_path / "alertmanager.yml"
    config.write_text(block)
    assert "SUCCESS" in run(amtool, "check-config", config)
    assert receiver(amtool, config, "critical") == "pager"
    assert receiver(amtool, config, "warning") == "mail"


def test_it_shows_an_alert_and_its_runbook(pytestconfig: pytest.Config, amtool: str, tmp_path: Path) -> None:
    server = program(pytestconfig, "prometheus-alertmanager", "prometheus-alertmanager")
    with HeldPorts() as ports:
        port = ports.pick()
    url = f"--alertmanager.url=http://127.0.0.1:{port}"
    options = (f"--web.listen-address=127.0.0.1:{port}", f"--storage.path={tmp_path}", "--cluster.listen-address=")
    with subprocess.Popen(
        [server, f"--config.file={OBSERVE / 'alertmanager.yml'}", *options], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr
            for line in process.stderr:  # until it listens
                if "Listening on" in line:
                    break
            runbook = "--annotation=runbook_url=https://wiki.example.com/RUNBOOK.md#moderationworkerdown"
            run(amtool, "alert", "add", url, "ModerationWorkerDown", "severity=critical", runbook)
            shown = run(amtool, "alert", "query", url, "--output=extended")
        finally:
            process.terminate()
    assert "ModerationWorkerDown" in shown
    assert "https://wiki.example.com/RUNBOOK.md#moderationworkerdown" in shown


def test_prometheus_takes_its_configuration() -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("no promtool (Debian: apt install prometheus): prometheus.yml is NOT tested")
    assert "SUCCESS" in run(promtool, "check", "config", OBSERVE / "prometheus.yml")


def test_the_command_of_the_guide_makes_each_runbook_address_absolute() -> None:
    (expression,) = re.findall(r"`sed '(s\|deploy/RUNBOOK[^']+)' rules.yaml`", GUIDE)
    rules = yaml.safe_load(run("sed", expression, OBSERVE / "rules.yaml"))
    addresses = [rule["annotations"]["runbook_url"] for group in rules["groups"] for rule in group["rules"]]
    assert len(addresses) > 40
    assert all(re.fullmatch(r"https://wiki\.example\.com/moderation/RUNBOOK\.md#\w+", each) for each in addresses)
