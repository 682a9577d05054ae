"""Writes the alerts as the PrometheusRule of this component: python deploy/kubernetes/components/monitoring/rules.py

Their source is deploy/observe/rules.yaml. A test compares them. It copies text and not data, to keep the comments.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parents[2] / "observe" / "rules.yaml"
TARGET = HERE / "prometheus-rule.yaml"
HEAD = """\
# Written by rules.py from deploy/observe/rules.yaml: change it there.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata: {name: moderation, namespace: moderation, labels: {app.kubernetes.io/part-of: moderation}}
spec:
"""


def written(rules: str) -> str:
    """The manifest that holds these rule groups."""
    groups = rules[rules.index("groups:") :]
    return HEAD + "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True))


if __name__ == "__main__":
    TARGET.write_text(written(SOURCE.read_text("utf-8")), "utf-8")
