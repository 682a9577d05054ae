"""deploy/model-servers.md: its commands set what exists, and its tables name what the code has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from moderation import models, settings
from moderation.models.remote import breaker
from moderation.models.remote.failures import Cause
from moderation.types import Reason

DEPLOY = Path(__file__).parents[3] / "deploy"
PAGE = (DEPLOY / "model-servers.md").read_text()


def exported() -> dict[str, str]:
    """The settings that its shell snippets export."""
    snippets = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    lines = [shlex.split(line, comments=True) for line in snippets.splitlines() if line.startswith("export MODERATION")]
    return dict(part.split("=", 1) for line in lines for part in line[1:])


def rows(header: str) -> list[list[str]]:
    """The cells of a table, found by the beginning of its header."""
    table = PAGE.partition(f"\n| {header}")[2].partition("\n\n")[0].splitlines()[2:]
    assert table
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_what_the_snippets_export_is_valid_together() -> None:
    model = settings.load(exported()).model
    assert models.is_remote(model.name)
    assert model.url
    assert model.budget_per_hour


def test_each_wire_has_a_row() -> None:
    assert [row[0] for row in rows("wire |")] == [f"`{wire}:`" for wire in models.WIRES]


def test_each_server_is_asked_under_a_name_of_a_wire() -> None:
    for server, _, names, url in rows("server |"):
        named = re.findall(r"`(\w+):", names)
        assert named, server
        assert set(named) <= set(models.WIRES), server
        assert re.match(r"`https?://[^`]+/(v1|decisions)`", url), server


def test_reasons_that_it_names_exist() -> None:
    named = set(re.findall(r"`([A-Z]+_[A-Z]+|[A-Z]{6,})`", PAGE)) - {"SSL_CERT_FILE", "HTTPS_PROXY"}
    assert named >= {"NO_PROBABILITY", "MODEL_CHANGED", "REFUSED", "CONTENT_FILTERED", "UNAVAILABLE"}
    assert named <= {str(reason) for reason in Reason} | {"MODERATION_MODEL"}


@pytest.mark.parametrize("cause", Cause)
def test_the_runbook_says_what_each_cause_means(cause: Cause) -> None:
    runbook = (DEPLOY / "RUNBOOK.md").read_text()
    if cause is Cause.BUDGET:
        assert "## ModerationModelBudgetSpent" in runbook
    else:
        section = runbook.partition("## ModerationModelOutage")[2].partition("\n## ")[0]
        assert f"\n| `{cause}` |" in section


def test_the_number_of_failures_is_that_of_the_breaker() -> None:
    assert breaker.FAILURES == 5
    assert "After five failed attempts in a row" in " ".join(PAGE.split())
    assert breaker.LAST_PROBE_S == 30
    assert "at most 30 s apart" in " ".join((DEPLOY / "RUNBOOK.md").read_text().split())


def test_the_outage_is_the_default() -> None:
    assert settings.ModelSettings().outage_s == 15 * 60
    assert PAGE.count("(15 minutes)") == 1
