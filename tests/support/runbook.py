"""The commands and queries of deploy/RUNBOOK.md, each of one kind: a storey of tests runs each kind.

`unit/deploy/test_runbook.py` fails for a command that is of no kind. `e2e/test_runbook.py` runs those of our own
command and of Kafka's tools, `deploy/test_runbook.py` those of kubectl, `unit/deploy/test_rules.py` the queries.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

PAGE = Path(__file__).parents[2] / "deploy" / "RUNBOOK.md"
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
QUERY = re.compile(r"\bmoderation_[a-z]|\bprocess_[a-z]+_|^up\{")
PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]{2,}\b")

# Tried by no test, and why. A row that the page does not have fails.
UNTRIED = {
    "chronyc tracking": "the clock of a node",
    "nvidia-smi": "the driver of a GPU",
    "date": "a broker's machine",
    "docker compose -f deploy/compose.yaml exec worker": "a part of a command; Compose has the service",
    "kubectl -n moderation exec deployment/worker --": "a part of commands that are tried",
    "kubectl -n moderation get certificates": "cert-manager's resource, which no test's API server knows",
    "curl -sS http://127.0.0.1:9464/readyz": "e2e asks that page of a role without curl",
}
# In the other storeys by name.
ELSEWHERE = {
    "openssl x509 -noout -enddate -in FILE": "unit/deploy/test_runbook.py",
    "SELECT * FROM pg_stat_activity WHERE wait_event_type = 'Lock'": "integration/view/test_runbook.py",
}
IN_A_POD = re.compile(r"kubectl -n moderation exec (\S+) -- (.+)")


def codes(page: str = "") -> list[str]:
    """What stands in backticks and in blocks of sh, a line each, in the order of a page: of the runbook by default."""
    page = page or PAGE.read_text()
    found: list[tuple[int, str]] = []
    for match in FENCE.finditer(page):
        if match[1] != "sh":
            continue
        found += [(match.start(2), line.strip()) for line in match[2].splitlines() if line.strip()]
    prose = FENCE.sub(lambda match: " " * len(match[0]), page)
    found += [(match.start(), " ".join(match[1].split())) for match in re.finditer(r"`([^`]+)`", prose)]
    return [code for _, code in sorted(found, key=lambda pair: pair[0])]


def queries(page: str = "") -> list[str]:
    """What a Prometheus is asked."""
    return [code for code in codes(page) if QUERY.search(code) and not commands_of("kubectl", code)]


def commands_of(program: str, *among: str) -> list[str]:
    """Commands of a program; of our own those in a pod, too. Parts of commands are none."""
    begins = re.compile(rf"{program} \S")
    found = [match[2] if program != "kubectl" and (match := IN_A_POD.fullmatch(code)) else code for code in among]
    return [code for code in found if begins.match(code) and code not in UNTRIED]


def commands(program: str) -> list[str]:
    """The same of the whole page, in its order. A program is a regular expression."""
    return commands_of(program, *codes())


def typed(command: str, values: Mapping[str, str]) -> list[str]:
    """The words of a command, with its placeholders filled in."""
    return shlex.split(PLACEHOLDER.sub(lambda match: values.get(match[0], match[0]), command))
