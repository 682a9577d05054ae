"""What the component `monitoring` gives Prometheus: labels of each target, and alerts that lead to the runbook."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.deploy.conftest import Render
from tests.kubernetes.cluster import DEPLOY, named, the_only

PHASE = "__meta_kubernetes_pod_phase"
OWN = """\
namespace: moderation
resources: [DEPLOY/base]
components: [POLICIES, DEPLOY/components/monitoring]
"""


def snippet_of_the_guide(word: str) -> dict[str, Any]:
    """The YAML block of deploy/README.md that has this word."""
    page = (DEPLOY.parent / "README.md").read_text("utf-8")
    (only,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if word in block]
    return dict(yaml.safe_load(only))


def test_alerts_lead_to_the_runbook_that_a_kustomization_names(render: Render) -> None:
    snippet = snippet_of_the_guide("runbook_url")
    (address,) = (value.partition("=")[2] for value in snippet["configMapGenerator"][0]["literals"])
    assert urlsplit(address).netloc
    manifests = render(OWN + yaml.safe_dump(snippet))
    groups = the_only(manifests, "PrometheusRule", "moderation")["spec"]["groups"]
    for rule in [rule for group in groups for rule in group["rules"]]:
        assert rule["annotations"]["runbook_url"] == f"{address}#{rule['alert'].lower()}"
    assert not [each for each in manifests if each["kind"] == "ConfigMap" and named(each) == "runbook"]


def test_targets_say_which_installation_and_which_pod_they_are(render: Render) -> None:
    """As Prometheus relabels them, with its rules: a rule whose regular expression does not match changes nothing."""
    labels = "labels:\n  - pairs: {app.kubernetes.io/instance: staging}\n    includeTemplates: true\n"
    for text, installation in ((OWN, "moderation"), (OWN + labels, "staging")):
        manifests = render(text)
        for role in ("worker", "api"):
            template = the_only(manifests, "Deployment", role)["spec"]["template"]["metadata"]
            target = {
                f"__meta_kubernetes_pod_label_{re.sub(r'[./-]', '_', name)}": value
                for name, value in template["labels"].items()
            }
            target |= {"__meta_kubernetes_pod_name": f"{role}-1", "instance": "10.0.0.1:9464"}
            (endpoint,) = the_only(manifests, "PodMonitor", "moderation")["spec"]["podMetricsEndpoints"]
            running = relabelled(target | {PHASE: "Running"}, endpoint["relabelings"])
            assert running
            assert (running["installation"], running["instance"]) == (installation, f"{role}-1")
            # Otherwise each new node that pulls an image would be a process that is down.
            assert relabelled(target | {PHASE: "Pending"}, endpoint["relabelings"]) is None


def relabelled(target: dict[str, str], rules: list[dict[str, Any]]) -> dict[str, str] | None:
    """The labels of a target, or None: it is not scraped."""
    labels = dict(target)
    for rule in rules:
        source = ";".join(labels.get(name, "") for name in rule.get("sourceLabels") or ())
        match = re.fullmatch(rule.get("regex", "(.*)"), source)
        if match and rule.get("action") == "drop":
            return None
        if match:
            labels[rule["targetLabel"]] = match.expand(rule.get("replacement", r"\1"))
    return labels
