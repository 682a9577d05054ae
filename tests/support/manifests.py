"""What tests ask of rendered manifests: pods, containers, and the settings that a role gets."""

from __future__ import annotations

from typing import Any

from tests.kubernetes.cluster import DEPLOY, Manifest, the_only

ROOT = DEPLOY.parents[1]
SAMPLES = {  # of what comes from Secrets
    "MODERATION_API__VIEW_DATABASE": "postgresql://api@db/moderation",
    "MODERATION_KAFKA__SASL_USERNAME": "moderation",
    "MODERATION_KAFKA__SASL_PASSWORD": "secret",
}

Combinations = dict[str, list[Manifest]]


def pod(manifests: list[Manifest], role: str) -> dict[str, Any]:
    spec: dict[str, Any] = the_only(manifests, "Deployment", role)["spec"]["template"]["spec"]
    return spec


def container(manifests: list[Manifest], role: str) -> dict[str, Any]:
    (only,) = pod(manifests, role)["containers"]
    return dict(only)


def environment(manifests: list[Manifest], role: str) -> dict[str, str]:
    """Of the container, with a sample for each secret."""
    settings = dict(the_only(manifests, "ConfigMap", "settings")["data"])
    for each in container(manifests, role)["env"] or []:
        assert each["name"] not in settings, f"{each['name']} is set in two places"
        settings[each["name"]] = each.get("value") or SAMPLES[each["name"]]
    return settings
