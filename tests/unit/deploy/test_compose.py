"""deploy/compose.yaml and compose.remote.yaml, as Docker's own Compose reads them: mounts, variables, confinement."""

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
DEPLOY = REPO / "deploy"
OWN_SERVICES = ("topics", "worker", "api")
SERVER = {"MODEL": "openai:gpt-4o-mini", "MODEL_URL": "https://api.openai.com/v1"}

Services = dict[str, dict[str, Any]]


def config(*files: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What Compose makes of the files. It refuses keys that it does not know."""
    compose = shutil.which("docker-compose", path=str(Path(sys.executable).parent))
    if not compose:
        pytest.skip(f"no docker-compose wheel for {sys.platform}: compose.yaml is NOT read by Compose")
    return subprocess.run(
        [compose, *(part for file in files for part in ("-f", str(DEPLOY / file))), "config", "--format", "json"],
        env={name: value for name, value in os.environ.items() if name in ("PATH", "HOME")} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def read(*files: str, **variables: str) -> Services:
    """Services by name, with anchors merged and defaults filled in."""
    done = config(*files, **variables)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "Compose warned"
    services: Services = json.loads(done.stdout)["services"]
    return services


@pytest.fixture(scope="module")
def local() -> Services:
    return read("compose.yaml")


@pytest.fixture(scope="module")
def remote() -> Services:
    return read("compose.yaml", "compose.remote.yaml", **SERVER)


@pytest.fixture(params=["local", "remote"])
def services(request: pytest.FixtureRequest) -> Services:
    """With a model of its own, and with a model server."""
    found: Services = request.getfixturevalue(request.param)
    return found


def mounts(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["target"]: mount for mount in service.get("volumes", [])}


def test_mounted_files_exist_and_are_read_only(services: Services) -> None:
    bound = [mount for service in services.values() for mount in service.get("volumes", []) if mount["type"] == "bind"]
    assert len(bound) >= 6
    assert [mount["source"] for mount in bound if not Path(mount["source"]).exists()] == []
    assert all(mount["read_only"] for mount in bound)


def test_variables_are_valid_settings(services: Services) -> None:
    for name in OWN_SERVICES:
        given = services[name]["environment"]
        settings.load(given)  # raises, and names what is wrong
        assert set(given) <= {knob for knob, _, _ in settings.fields()} | {"MODERATION_MODEL"}
    policies = mounts(services["worker"])["/etc/moderation/policies"]["source"]
    assert policies == mounts(services["api"])["/etc/moderation/policies"]["source"]
    assert len(PolicySet.load(Path(policies)).policies) >= 5


@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.remote.yaml")])
def test_the_folder_of_the_author_is_used(files: tuple[str, ...], tmp_path: Path) -> None:
    services = read(*files, **SERVER, MODERATION_POLICIES=str(tmp_path))
    for role in ("worker", "api"):
        assert mounts(services[role])["/etc/moderation/policies"]["source"] == str(tmp_path)


def test_a_worker_of_a_model_server_has_its_own_image_and_is_otherwise_the_same(
    local: Services, remote: Services
) -> None:
    ours, theirs = local["worker"], remote["worker"]
    assert theirs["image"] == "moderation-remote:compose"
    assert theirs["build"] | {"target": "worker"} == ours["build"] | {"args": theirs["build"]["args"]}
    assert theirs["build"]["args"].items() < ours["build"]["args"].items(), "DEVICE is of the image with torch"
    own = {"image", "build", "environment", "volumes", "extra_hosts"}
    assert {key: value for key, value in theirs.items() if key not in own} == {
        key: value for key, value in ours.items() if key not in own
    }
    given = settings.load(theirs["environment"]).model
    assert (given.name, given.url, given.api_key.get_secret_value()) == (*SERVER.values(), "")
    keyed = read("compose.yaml", "compose.remote.yaml", **SERVER, MODEL_API_KEY="secret")["worker"]["environment"]
    assert settings.load(keyed).model.api_key.get_secret_value() == "secret"


@pytest.mark.parametrize("variable", SERVER)
def test_what_a_model_server_needs_is_asked_for(variable: str) -> None:
    others = {name: value for name, value in SERVER.items() if name != variable}
    done = config("compose.yaml", "compose.remote.yaml", **others)
    assert done.returncode
    assert f"required variable {variable} is missing a value" in done.stderr


def test_ports_are_on_loopback_and_containers_are_confined(services: Services) -> None:
    for name, service in services.items():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service.get("read_only") or name == "kafka", name
        assert not service.get("privileged"), name
        tag = service["image"].rpartition(":")[2]
        assert tag not in ("latest", service["image"]), f"{name}: pin {service['image']}"


def test_services_start_after_their_dependencies(services: Services) -> None:
    assert services["topics"]["depends_on"]["kafka"]["condition"] == "service_healthy"
    for name in ("worker", "api"):
        assert services[name]["depends_on"]["topics"]["condition"] == "service_completed_successfully"
    for name, service in services.items():
        assert "test" in service.get("healthcheck", {}) or name == "topics", f"{name} has no health check"


def test_clients_use_the_broker_s_inner_listener(services: Services) -> None:
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


def test_prometheus_scrapes_the_ports_of_the_roles(services: Services) -> None:
    path = mounts(services["prometheus"])["/etc/prometheus/prometheus.yml"]["source"]
    jobs = yaml.safe_load(Path(path).read_text())["scrape_configs"]
    targets = {target for job in jobs for static in job["static_configs"] for target in static["targets"]}
    ports = {
        name: services[name]["environment"]["MODERATION_OPS__LISTEN"].rpartition(":")[2] for name in OWN_SERVICES[1:]
    }
    assert {f"{name}:{port}" for name, port in ports.items()} <= targets


def test_prometheus_sends_its_alerts_to_the_alertmanager(local: Services) -> None:
    config = yaml.safe_load(Path(mounts(local["prometheus"])["/etc/prometheus/prometheus.yml"]["source"]).read_text())
    ((target,),) = [[target for static in group["static_configs"] for target in static["targets"]]
                    for group in config["alerting"]["alertmanagers"]]  # fmt: skip
    name, _, port = target.partition(":")
    published = {(port["target"], port["published"]) for port in local[name]["ports"]}
    assert published == {(int(port), port)}
    given = {option.partition("=")[::2] for option in local[name]["command"]}
    assert {target for _, target in given} >= set(mounts(local[name]))


def test_compose_names_no_image_that_make_images_builds(local: Services, remote: Services) -> None:
    """It knows neither the version nor the revision, so its images must not take the place of those."""
    built = {"moderation-api:dev", "moderation-remote:dev", "moderation-worker:dev", "moderation-worker:cpu"}
    named = {service["image"] for services in (local, remote) for service in services.values() if "build" in service}
    assert named
    assert not named & built
