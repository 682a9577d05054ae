"""deploy/compose.yaml, as Docker's own Compose reads it: mounts exist, and variables are settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from moderation import settings
from moderation.policies import PolicySet

REPO = Path(__file__).parents[3]
FILE = REPO / "deploy" / "compose.yaml"
OWN_SERVICES = ("topics", "worker", "api")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """Services by name, with anchors merged and defaults filled in. Compose refuses keys that it does not know."""
    compose = shutil.which("docker-compose", path=str(Path(sys.executable).parent))
    if not compose:
        pytest.skip(f"no docker-compose wheel for {sys.platform}: compose.yaml is NOT read by Compose")
    done = subprocess.run(
        [compose, "-f", str(FILE), "config", "--format", "json"],
        env={name: value for name, value in os.environ.items() if name in ("PATH", "HOME")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "Compose warned"
    services: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return services


def mounts(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["target"]: mount for mount in service.get("volumes", [])}


def test_mounted_files_exist_and_are_read_only(services: dict[str, dict[str, Any]]) -> None:
    bound = [mount for service in services.values() for mount in service.get("volumes", []) if mount["type"] == "bind"]
    assert len(bound) >= 6
    assert [mount["source"] for mount in bound if not Path(mount["source"]).exists()] == []
    assert all(mount["read_only"] for mount in bound)


def test_variables_are_valid_settings(services: dict[str, dict[str, Any]]) -> None:
    for name in OWN_SERVICES:
        given = services[name]["environment"]
        settings.load(given)  # raises, and names what is wrong
        assert set(given) <= {knob for knob, _, _ in settings.fields()} | {"MODERATION_MODEL"}
    policies = mounts(services["worker"])["/etc/moderation/policies"]["source"]
    assert policies == mounts(services["api"])["/etc/moderation/policies"]["source"]
    assert len(PolicySet.load(Path(policies)).policies) >= 5


def test_ports_are_on_loopback_and_containers_are_confined(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service.get("read_only") or name == "kafka", name
        assert not service.get("privileged"), name
        tag = service["image"].rpartition(":")[2]
        assert tag not in ("latest", service["image"]), f"{name}: pin {service['image']}"


def test_services_start_after_their_dependencies(services: dict[str, dict[str, Any]]) -> None:
    assert services["topics"]["depends_on"]["kafka"]["condition"] == "service_healthy"
    for name in ("worker", "api"):
        assert services[name]["depends_on"]["topics"]["condition"] == "service_completed_successfully"
    for name, service in services.items():
        assert "test" in service.get("healthcheck", {}) or name == "topics", f"{name} has no health check"


def test_clients_use_the_broker_s_inner_listener(services: dict[str, dict[str, Any]]) -> None:
    """The listeners are complete. Kafka refuses a configuration in which they are not."""
    kafka = services["kafka"]["environment"]
    advertised = dict(listener.split("://") for listener in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listeners = dict(listener.split("://") for listener in kafka["KAFKA_LISTENERS"].split(","))
    protocols = dict(entry.split(":") for entry in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert set(protocols) == set(listeners) == {*advertised, kafka["KAFKA_CONTROLLER_LISTENER_NAMES"]}
    inside = advertised[kafka["KAFKA_INTER_BROKER_LISTENER_NAME"]]
    assert {services[name]["environment"]["MODERATION_KAFKA__BOOTSTRAP"] for name in OWN_SERVICES} == {inside}
    assert advertised["OUTSIDE"] == "127.0.0.1:{published}".format(**services["kafka"]["ports"][0])
    copies = [value for name, value in kafka.items() if name.endswith(("REPLICATION_FACTOR", "ISR", "REPLICAS"))]
    assert set(copies) == {"1"}


def test_prometheus_scrapes_the_ports_of_the_roles(services: dict[str, dict[str, Any]]) -> None:
    path = mounts(services["prometheus"])["/etc/prometheus/prometheus.yml"]["source"]
    jobs = yaml.safe_load(Path(path).read_text())["scrape_configs"]
    targets = {target for job in jobs for static in job["static_configs"] for target in static["targets"]}
    ports = {
        name: services[name]["environment"]["MODERATION_OPS__LISTEN"].rpartition(":")[2] for name in OWN_SERVICES[1:]
    }
    assert {f"{name}:{port}" for name, port in ports.items()} <= targets
