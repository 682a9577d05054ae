"""Writes the alerts as prometheus-rule.yaml, which the Prometheus operator takes: `make reference` runs it.

Their source is deploy/observe/rules.yaml. It copies text and not data, to keep the comments.
"""

from __future__ import annotations

from pathlib import Path

SOURCE = Path(__file__).parents[3] / "observe" / "rules.yaml"
HEAD = """\
# Written by `make reference` from deploy/observe/rules.yaml: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: moderation, namespace: moderation, labels: {app.kubernetes.io/part-of: moderation}}
spec:
"""


def text() -> str:
    """The manifest that holds the rule groups."""
    rules = SOURCE.read_text("utf-8")
    groups = rules[rules.index("groups:") :]
    return HEAD + "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True))
