"""Manifests as kustomize renders them: each claim of deploy/README.md that needs no server."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from moderation import lifecycle, models, settings
from moderation.kafka import clients
from moderation.kafka.topics import configs_of
from moderation.media.sources.addresses import NOT_PUBLIC_4, NOT_PUBLIC_6, PUBLIC_6
from moderation.policies import PolicySet
from moderation.settings import Settings
from moderation.view.stores.sqlite_budget import SMALLEST
from tests.deploy.conftest import Render
from tests.kubernetes.cluster import DEPLOY, Manifest, named, the_only
from tests.support.manifests import ROOT, SAMPLES, Combinations, container, environment, pod

COMPONENTS = sorted(path.parent.name for path in (DEPLOY / "components").glob("*/kustomization.yaml"))
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def own(*components: str, policies: str = "POLICIES") -> str:
    """A kustomization of the base and these components, in this order."""
    listed = "".join(f"  - DEPLOY/components/{name}\n" for name in components)
    return f"namespace: moderation\nresources:\n  - DEPLOY/base\ncomponents:\n  - {policies}\n{listed}"


def bytes_of(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def roles(combinations: Combinations) -> Iterator[tuple[str, list[Manifest], str]]:
    for (name, manifests), role in itertools.product(combinations.items(), ("worker", "api")):
        yield name, manifests, role


def test_every_component_is_in_a_combination_or_in_another_component() -> None:
    files = [*DEPLOY.glob("combinations/*/kustomization.yaml"), *DEPLOY.glob("components/*/kustomization.yaml")]
    used = {Path(name).name for file in files for name in yaml.safe_load(file.read_text()).get("components", ())}
    assert not set(COMPONENTS) - used


def test_every_variable_is_a_setting_and_parses(combinations: Combinations) -> None:
    known = {variable for variable, _, _ in settings.fields()} | {"MODERATION_MODEL"}
    for name, manifests, role in roles(combinations):
        variables = {
            key: value for key, value in environment(manifests, role).items() if key.startswith(settings.PREFIX)
        }
        assert not set(variables) - known, name
        settings.load(variables)


def test_service_links_are_off(combinations: Combinations) -> None:
    """A Service puts variables into pods: with our prefix, and no setting of that name, they would stop the start."""
    for name, manifests, role in roles(combinations):
        assert pod(manifests, role)["enableServiceLinks"] is False, name


def test_a_stop_is_given_the_time_that_it_may_take(combinations: Combinations) -> None:
    for _, manifests, role in roles(combinations):
        own = environment(manifests, role)
        some = settings.load({key: own[key] for key in own if key.startswith(settings.PREFIX)})
        stops = 2 * clients.STOP_S + lifecycle.EXIT_GRACE_S  # a consumer, a producer, and a thread that is stuck
        drain = {
            "worker": some.worker.drain_timeout_s + some.kafka.transaction_timeout_ms / 1000,
            "api": some.api.drain_delay_s + some.api.drain_timeout_s,
        }
        assert pod(manifests, role)["terminationGracePeriodSeconds"] >= drain[role] + stops


def test_pods_are_hardened(combinations: Combinations) -> None:
    for name, manifests, role in roles(combinations):
        spec, only = pod(manifests, role), container(manifests, role)
        assert spec["automountServiceAccountToken"] is False, name
        assert (
            the_only(manifests, "ServiceAccount", spec["serviceAccountName"])["automountServiceAccountToken"] is False
        )
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        writable = {mount["mountPath"] for mount in only["volumeMounts"] if not mount.get("readOnly")}
        allowed = {"worker": {"/tmp", "/models"}, "api": {"/tmp", "/var/lib/moderation"}}[role]  # noqa: S108
        assert writable <= allowed
        for volume in spec["volumes"]:
            assert "emptyDir" not in volume or volume["emptyDir"].get("sizeLimit"), f"{volume['name']} has no bound"
        assert set(only["resources"]["requests"]) >= {"cpu", "memory", "ephemeral-storage"}
        assert set(only["resources"]["limits"]) >= {"memory", "ephemeral-storage"}


def test_the_view_fits_its_volume(combinations: Combinations) -> None:
    for name, manifests in combinations.items():
        (view,) = [volume for volume in pod(manifests, "api")["volumes"] if volume["name"] == "view"]
        size = bytes_of(view["emptyDir"]["sizeLimit"])
        bound = int(environment(manifests, "api")["MODERATION_API__VIEW_MAX_BYTES"])
        assert bound >= SMALLEST, name
        assert size >= 1.1 * bound, name
        resources = container(manifests, "api")["resources"]
        assert bytes_of(resources["limits"]["ephemeral-storage"]) > size
        assert bytes_of(resources["requests"]["ephemeral-storage"]) >= bound, "it would be the first to be evicted"


def test_probes_lead_to_ports_that_are_listened_on(combinations: Combinations) -> None:
    for _, manifests, role in roles(combinations):
        only, own = container(manifests, role), environment(manifests, role)
        ports = {port["name"]: port["containerPort"] for port in only["ports"]}
        assert own["MODERATION_OPS__LISTEN"] == f"0.0.0.0:{ports['ops']}"
        probes = {kind: only[kind] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
        http = {kind: probe["httpGet"]["path"] for kind, probe in probes.items() if "httpGet" in probe}
        ready = {"readinessProbe": "/readyz"} if role == "worker" else {}
        assert http == {"startupProbe": "/startupz", "livenessProbe": "/livez"} | ready
        assert all(probe["httpGet"]["port"] == "ops" for probe in probes.values() if "httpGet" in probe)
        if role == "api":
            assert own["MODERATION_API__HEALTH_LISTEN"] == f"0.0.0.0:{probes['readinessProbe']['grpc']['port']}"
            assert own["MODERATION_API__LISTEN"] == f"0.0.0.0:{ports['grpc']}"
        assert probes["livenessProbe"]["terminationGracePeriodSeconds"] <= 10, "what hangs keeps its place"
        started = probes["startupProbe"]
        deadline = the_only(manifests, "Deployment", role)["spec"]["progressDeadlineSeconds"]
        assert deadline > started["periodSeconds"] * started["failureThreshold"], "a slow start would count as failed"


def test_callers_have_left_an_api_before_it_refuses_calls(combinations: Combinations) -> None:
    """The name of the Service api-headless is kept for 5 s by CoreDNS, and clients ask again once a pod is gone."""
    for name, manifests in combinations.items():
        own = environment(manifests, "api")
        assert float(own["MODERATION_API__DRAIN_DELAY_S"]) > 5, name


def test_config_maps_never_change(combinations: Combinations) -> None:
    for name, manifests in combinations.items():
        changing = [m["metadata"]["name"] for m in manifests if m["kind"] == "ConfigMap" and not m.get("immutable")]
        assert not changing, name


def test_a_worker_goes_before_its_successor_comes(combinations: Combinations) -> None:
    for name, manifests in combinations.items():
        assert the_only(manifests, "Deployment", "worker")["spec"]["strategy"]["rollingUpdate"] == {
            "maxSurge": 0,
            "maxUnavailable": 1,
        }, name
        assert the_only(manifests, "Deployment", "api")["spec"]["strategy"]["rollingUpdate"] == {
            "maxSurge": 1,
            "maxUnavailable": 0,
        }


def test_disruption_is_bounded(combinations: Combinations) -> None:
    for _, manifests, role in roles(combinations):
        budget = the_only(manifests, "PodDisruptionBudget", role)["spec"]
        assert budget["maxUnavailable"] == 1
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        labels = the_only(manifests, "Deployment", role)["spec"]["template"]["metadata"]["labels"]
        assert budget["selector"]["matchLabels"].items() <= labels.items()


def test_nothing_passes_but_what_is_named(combinations: Combinations) -> None:
    for name, manifests in combinations.items():
        policies = [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
        deny = the_only(policies, "NetworkPolicy", "default-deny")["spec"]
        assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}, name
        into = {
            port["port"] for policy in policies for rule in policy["spec"].get("ingress", ()) for port in rule["ports"]
        }
        broker = {9092} if name == "demo" else set()  # its own
        assert into <= {50051, 9464} | broker, f"{name}: a way in that is no lookup and no scrape"
        for policy in policies:
            for rule in [*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ())]:
                assert rule["ports"], "a rule without ports opens all"


def test_the_policies_are_the_folders(combinations: Combinations, tmp_path: Path) -> None:
    """All files, and as the roles read them: what is mounted has the digest of the folder."""
    for name, folder in {"demo": ROOT / "policies" / "demo", "strimzi": ROOT / "policies"}.items():
        mounted = tmp_path / name
        mounted.mkdir()
        for file, text in the_only(combinations[name], "ConfigMap", "policies")["data"].items():
            (mounted / file).write_text(text)
        assert PolicySet.load(mounted) == PolicySet.load(folder)
        assert {path.name for path in mounted.iterdir()} == {
            path.name for pattern in ("*.yaml", "*.certificate.json") for path in folder.glob(pattern)
        }


@pytest.mark.parametrize("generated", ["policies", "settings"])
def test_a_change_rolls_both_roles(generated: str, render: Render) -> None:
    """The name of the ConfigMap holds a hash of it, and both pod templates name it."""
    same = "namespace: moderation\nresources: [DEPLOY/combinations/demo]\n"
    merged = f"configMapGenerator: [{{name: {generated}, behavior: merge, literals: [MODERATION_LOG__LEVEL=debug]}}]\n"
    before, after = (
        {role: _config_maps(manifests, role) for role in ("worker", "api")}
        for manifests in (render(same), render(same + merged))
    )
    for role, names in before.items():
        assert {name for name in names if name.startswith(generated)} - after[role], f"{role} would not be rolled"
        assert len(after[role] - names) == 1


def _config_maps(manifests: list[Manifest], role: str) -> set[str]:
    spec = pod(manifests, role)
    mounted = {volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume}
    return mounted | {source["configMapRef"]["name"] for source in spec["containers"][0]["envFrom"]}


def test_components_come_in_any_order(render: Render) -> None:
    """Each combination that goes together, forwards, backwards and shuffled: the same objects."""
    for kafka_, keda, weights in [
        ("strimzi", "keda-mtls", "weights-pvc"),
        ("kafka-sasl", "keda-sasl", "weights-image"),
        ("monitoring", "keda", "weights-hub"),
        ("model-key", "keda", "model-server"),
    ]:
        names = ["gpu", "postgres", "api-tls", "api-jwt", "tracing", kafka_, keda, weights]
        expected = _settled(render(own(*names)))
        for seed in range(3):
            shuffled = names[::-1] if not seed else random.Random(seed).sample(names, len(names))
            assert _settled(render(own(*shuffled))) == expected, f"in the order {shuffled}"


def _settled(manifests: list[Manifest]) -> Any:
    """Without the order of objects, and of what lists hold."""

    def settle(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: settle(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return sorted(map(settle, value), key=repr)
        return value

    return sorted(map(settle, manifests), key=lambda manifest: (manifest["kind"], manifest["metadata"]["name"]))


def test_workers_scale_by_lag(combinations: Combinations) -> None:
    scaled = the_only(combinations["strimzi"], "ScaledObject", "worker")["spec"]
    partitions = the_only(combinations["strimzi"], "KafkaTopic", "posts")["spec"]["partitions"]
    (trigger,) = scaled["triggers"]
    assert scaled["maxReplicaCount"] == partitions
    assert int(trigger["metadata"]["activationLagThreshold"]) >= partitions
    down = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert 300 <= down["stabilizationWindowSeconds"] <= 600
    assert "replicas" not in the_only(combinations["strimzi"], "Deployment", "worker")["spec"]
    own = environment(combinations["strimzi"], "worker")
    read = {key: own[value] for key, value in trigger["metadata"].items() if key.endswith("FromEnv")}
    assert read == {
        "bootstrapServersFromEnv": "kafka-kafka-bootstrap.kafka:9093",
        "consumerGroupFromEnv": Settings().kafka.group,
        "topicFromEnv": Settings().kafka.posts_topic,
    }


def test_the_topics_are_those_of_the_settings(combinations: Combinations) -> None:
    topics = {
        topic["metadata"]["name"]: topic["spec"] for topic in combinations["strimzi"] if topic["kind"] == "KafkaTopic"
    }
    kafka = Settings().kafka
    assert set(topics) == {kafka.posts_topic, kafka.verdicts_topic, kafka.dead_letters}
    assert len({topic["partitions"] for topic in topics.values()}) == 1
    for name, topic in topics.items():
        assert configs_of(kafka, name).items() <= {key: str(value) for key, value in topic["config"].items()}.items()


def test_a_gpu_is_asked_for_and_granted(combinations: Combinations) -> None:
    resources = container(combinations["strimzi"], "worker")["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in str(combinations["demo"])


def test_a_worker_of_a_model_server_has_its_image_and_its_way_out(combinations: Combinations) -> None:
    manifests = combinations["remote"]
    assert container(manifests, "worker")["image"] == "moderation-remote"
    assert "nvidia" not in str(manifests)
    own = environment(manifests, "worker")
    model = settings.load({key: value for key, value in own.items() if key.startswith(settings.PREFIX)}).model
    assert models.is_remote(model.name)
    policy = the_only(manifests, "NetworkPolicy", "model-server")["spec"]
    labels = the_only(manifests, "Deployment", "worker")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    outside, inside = policy["egress"]
    assert outside == {"ports": [{"protocol": "TCP", "port": urlsplit(model.url).port or 443}]}
    assert inside["to"] == [{"namespaceSelector": {"matchLabels": {"moderation/models": "allowed"}}}]


def test_a_worker_that_fetches_pictures_reaches_public_addresses_alone(combinations: Combinations) -> None:
    """The network policy and the worker's own check have the same list."""
    policy = the_only(combinations["strimzi"], "NetworkPolicy", "https-images")["spec"]
    labels = the_only(combinations["strimzi"], "Deployment", "worker")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    (rule,) = policy["egress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 443}]
    assert rule["to"] == [
        {"ipBlock": {"cidr": cidr, "except": [str(network) for network in networks]}}
        for cidr, networks in (("0.0.0.0/0", NOT_PUBLIC_4), (str(PUBLIC_6), NOT_PUBLIC_6))
    ]


def test_the_key_of_a_model_server_is_mounted_for_the_worker_alone(combinations: Combinations) -> None:
    manifests = combinations["remote"]
    (volume,) = [volume for volume in pod(manifests, "worker")["volumes"] if volume["name"] == "model-key"]
    (mount,) = [m for m in container(manifests, "worker")["volumeMounts"] if m["name"] == "model-key"]
    (item,) = volume["secret"]["items"]
    assert mount["readOnly"]
    assert environment(manifests, "worker")["MODERATION_MODEL__API_KEY_FILE"] == f"{mount['mountPath']}/{item['path']}"
    assert volume["secret"]["secretName"] == "model-key"
    assert "model-key" not in str(pod(manifests, "api"))


def test_a_rollout_outlasts_an_outage_of_the_model_server(combinations: Combinations) -> None:
    """A worker that starts meanwhile is ready once it has waited for the outage."""
    deployment = the_only(combinations["remote"], "Deployment", "worker")["spec"]
    assert deployment["progressDeadlineSeconds"] > Settings().model.outage_s + 60


def test_weights_are_read_only_and_named_by_digest(combinations: Combinations) -> None:
    (image,) = [volume["image"] for volume in pod(combinations["sasl"], "worker")["volumes"] if "image" in volume]
    assert "@sha256:" in image["reference"]
    for name in ("sasl", "strimzi"):
        own = environment(combinations[name], "worker")
        (mount,) = [m for m in container(combinations[name], "worker")["volumeMounts"] if m["name"] == "weights"]
        assert mount["readOnly"], name
        assert own["MODERATION_MODEL"].startswith(mount["mountPath"])
        assert own["HF_HUB_OFFLINE"] == "1"


def test_no_secret_is_in_the_manifests(combinations: Combinations) -> None:
    secret = [variable for variable in SAMPLES if "USERNAME" not in variable]
    for name, manifests, role in roles(combinations):
        assert not [each for each in manifests if each["kind"] == "Secret"], name
        for each in container(manifests, role)["env"] or []:
            assert each["name"] not in secret or "secretKeyRef" in each["valueFrom"]
        assert not set(the_only(manifests, "ConfigMap", "settings")["data"]) & set(SAMPLES)


def test_what_is_scraped_is_what_is_served(combinations: Combinations) -> None:
    for name in ("strimzi", "sasl"):
        monitor = the_only(combinations[name], "PodMonitor", "moderation")["spec"]
        for role in ("worker", "api"):
            labels = the_only(combinations[name], "Deployment", role)["spec"]["template"]["metadata"]["labels"]
            assert monitor["selector"]["matchLabels"].items() <= labels.items()
            ports = {port["name"] for port in container(combinations[name], role)["ports"]}
            assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports


def test_alerts_are_those_of_observe(combinations: Combinations) -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "observe" / "rules.yaml").read_text())["groups"]
    assert the_only(combinations["strimzi"], "PrometheusRule", "moderation")["spec"]["groups"] == groups, (
        "they differ: run make reference"
    )


def test_names_are_found_without_their_hash(combinations: Combinations) -> None:
    assert {named(manifest) for manifest in combinations["demo"] if manifest["kind"] == "ConfigMap"} == {
        "kafka",
        "policies",
        "settings",
    }
