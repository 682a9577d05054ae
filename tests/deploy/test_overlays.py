"""What the pages show to type: the kustomizations of one's own, and the demonstration, which needs nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from moderation import settings
from moderation.dev.jars import fetch_jars, find_java
from tests.deploy.conftest import Render
from tests.kubernetes.cluster import Manifest, named, the_only
from tests.support.manifests import ROOT, Combinations, container, environment, pod


def test_the_demo_needs_nothing_but_its_images(combinations: Combinations) -> None:
    """Images that can be loaded into a node: without a tag, the kubelet would ask a registry. A laptop's resources."""
    manifests = combinations["demo"]
    images, cores = set(), 0.0
    for manifest in (m for m in manifests if m["kind"] in ("Deployment", "Job")):
        (only,) = manifest["spec"]["template"]["spec"]["containers"]
        images.add(only["image"])
        cores += (
            manifest["spec"].get("replicas", 1) * int(only["resources"]["requests"]["cpu"].removesuffix("m")) / 1000
        )
    assert images == {"moderation-api:dev", "moderation-worker:cpu", "apache/kafka:4.3.1"}
    assert cores <= 1
    host, _, port = environment(manifests, "worker")["MODERATION_KAFKA__BOOTSTRAP"].rpartition(":")
    assert int(port) in {each["port"] for each in the_only(manifests, "Service", host)["spec"]["ports"]}
    broker = pod(manifests, "kafka")
    (ours,) = [m for m in manifests if m["kind"] == "ConfigMap" and named(m) == "kafka"]
    assert f"advertised.listeners=BROKER://{host}:{port}" in ours["data"]["server.properties"]
    assert broker["containers"][0]["image"] in (ROOT / "deploy" / "compose.yaml").read_text(), "another Kafka is tested"


def test_kafka_takes_the_settings_of_the_demos_broker(combinations: Combinations, tmp_path: Path) -> None:
    """Its own tool for storage reads all of them."""
    (ours,) = [m for m in combinations["demo"] if m["kind"] == "ConfigMap" and named(m) == "kafka"]
    properties = tmp_path / "server.properties"
    properties.write_text(ours["data"][properties.name].replace("/var/lib/kafka/data", str(tmp_path / "data")))
    (init,) = pod(combinations["demo"], "kafka")["initContainers"]
    options = [str(properties) if word.endswith(properties.name) else word for word in init["command"][1:]]
    command = [find_java(), "-cp", f"{fetch_jars(print)}/*", "kafka.tools.StorageTool", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "meta.properties").exists()


def test_the_demos_pods_reach_its_broker(combinations: Combinations) -> None:
    """Where network policies are enforced: the job that makes the topics, both roles, and the broker itself."""
    manifests = combinations["demo"]
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    labels = {
        named(m): m["spec"]["template"]["metadata"]["labels"] for m in manifests if m["kind"] in ("Deployment", "Job")
    }
    assert set(labels) == {"api", "worker", "kafka", "topics"}
    into = rules(policies, labels["kafka"], "ingress", 9092)
    sources = [each["podSelector"]["matchLabels"] for rule in into for each in rule["from"]]
    for name, own in labels.items():
        assert rules(policies, own, "egress", 53), f"{name} may not resolve a name"
        assert [rule for rule in rules(policies, own, "egress", 9092) if "to" not in rule], f"{name} may not leave"
        assert [source for source in sources if source.items() <= own.items()], f"the broker does not take {name}"


def rules(policies: list[Manifest], labels: Manifest, way: str, port: int) -> list[Manifest]:
    """The rules of all policies for pods with these labels that let a port through."""
    return [
        rule
        for policy in policies
        if policy["podSelector"].get("matchLabels", {}).items() <= labels.items()
        for rule in policy.get(way, ())
        if any(each["port"] <= port <= each.get("endPort", each["port"]) for each in rule["ports"])
    ]


def overlay_of(page: str) -> Manifest:
    """The kustomization that a page shows, but for the address of this repository."""
    text = (ROOT / "deploy" / page).read_text().partition("```yaml\n")[2].partition("```")[0]
    assert text.startswith("# kustomization.yaml")
    overlay: Manifest = yaml.safe_load(text)
    (address,) = overlay["resources"]
    overlay["resources"] = [
        address.replace("github.com/OWNER/moderation/deploy/kubernetes", "DEPLOY").partition("?")[0]
    ]
    return overlay


def test_the_overlay_of_the_readme_renders(render: Render, tmp_path: Path) -> None:
    overlay = overlay_of("README.md")
    (tmp_path / "own" / "policies").mkdir(parents=True)
    for source in next(each for each in overlay["configMapGenerator"] if each["name"] == "policies")["files"]:
        (tmp_path / "own" / source).write_text((ROOT / "policies" / "weapons-sale.yaml").read_text())
    manifests = render(yaml.safe_dump(overlay))
    assert set(the_only(manifests, "ConfigMap", "policies")["data"]) == {"spam.yaml", "weapons.yaml"}
    assert container(manifests, "worker")["image"] == "registry.example.com/moderation-worker:0.1.0"
    assert the_only(manifests, "ConfigMap", "settings")["data"]["MODERATION_MODEL__DIGEST"].startswith("<files' digest")


def test_the_overlay_for_a_model_server_renders(render: Render) -> None:
    manifests = render(yaml.safe_dump(overlay_of("model-servers.md")))
    assert container(manifests, "worker")["image"] == "registry.example.com/moderation-remote:0.1.0"
    assert container(manifests, "api")["image"] == "registry.example.com/moderation-api:0.1.0"
    own = environment(manifests, "worker")
    model = settings.load({key: value for key, value in own.items() if key.startswith(settings.PREFIX)}).model
    (inside,) = [
        rule for rule in the_only(manifests, "NetworkPolicy", "model-server")["spec"]["egress"] if "to" in rule
    ]
    assert urlsplit(model.url).port in {port["port"] for port in inside["ports"]}
