"""Mistakes of authors about certificates. See author_mistakes.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from moderation.policies import Policy
from moderation.policies.certificates import written
from tests.support.author_mistakes import SOUND, Row, beside
from tests.support.certificates import ISSUED, a_certificate

FILE = "lakes.certificate.json"
LAKES = Policy.model_validate(yaml.safe_load(SOUND))
REQUIRED = f"{SOUND}certificate: required\n"
NOW = datetime.now(UTC)  # warnings begin fourteen days before the end


def text(**fields: Any) -> str:
    """The file of a sound certificate, but for these fields."""
    return written(a_certificate(LAKES, **fields))


def both(name: str, kind: str, at: str, *says: str, policy: str = REQUIRED, certificate: str = "") -> Row:
    """A policy, and a certificate beside it."""
    return Row(name, kind, says, at, {"lakes.yaml": policy} | ({FILE: certificate} if certificate else {}))


CERTIFICATES = [
    beside(
        "a certificate that is no JSON", FILE, "\n\n{", "error", "no certificate", "certify the policy again", line=3
    ),
    beside("a certificate that is empty", FILE, "", "error", "no certificate", "certify the policy again"),
    beside("a certificate with a merge's marks", FILE, f"{text()}<<<<<<< HEAD\n", "error", "no certificate", line=40),
    beside("a certificate that lacks its keys", FILE, "{}\n", "error", "policy: field required", "certify"),
    beside(
        "a certificate with a key of its own",
        FILE,
        text().replace('"labellers"', '"labelers"'),
        "error",
        "labellers: field required",
    ),
    beside(
        "a certificate with a wrong digest",
        FILE,
        text().replace('"1111', '"x111'),
        "error",
        "labels_digest",
        "certify the policy again",
        line=30,
    ),
    beside(
        "a certificate whose share is a percentage",
        FILE,
        text().replace(": 0.95,", ": 95,", 1),
        "error",
        "precision.at_least",
        "certify",
        line=13,
    ),
    beside(
        "a certificate with more misses than labels",
        FILE,
        text().replace('"k": 0', '"k": 60'),
        "error",
        "precision",
        "more false",
        "(n)",
        line=12,
    ),
    beside("a certificate that ends before it begins", FILE, text().replace('"3026', '"2016'), "error", "expires_at"),
    beside(
        "a certificate of another policy",
        FILE,
        text().replace('"lakes"', '"ponds"'),
        "error",
        "ponds",
        "rename it",
        line=3,
    ),
    beside("a certificate that is a folder", f"{FILE}/", "", "error", "not readable", "a directory", line=0),
    both(
        "none, where one is required",
        "warning",
        "lakes.yaml:11",
        "there is no",
        FILE,
        "REMOVE becomes REVIEW",
        "moderation policies certify",
    ),
    both(
        "a certificate for other words",
        "warning",
        f"{FILE}:5",
        "other words",
        "REMOVE becomes REVIEW",
        "certify the policy again",
        policy=REQUIRED.replace("mentions a lake", "names a lake"),
        certificate=text(),
    ),
    both(
        "a certificate for another threshold",
        "warning",
        f"{FILE}:10",
        "it certifies 0.9",
        "0.95",
        "does not hold",
        "write remove: 0.9",
        policy=REQUIRED.replace("0.9", "0.95"),
        certificate=text(),
    ),
    both(
        "a certificate that has ended",
        "warning",
        f"{FILE}:38",
        "it ended on 2026-11-02",
        "REMOVE becomes REVIEW",
        "certify the policy again",
        certificate=text(expires_at=ISSUED + timedelta(days=1)),
    ),
    both(
        "a certificate that has ended, where none is required",
        "warning",
        f"{FILE}:38",
        "ended on",
        "certify",
        policy=SOUND,
        certificate=text(expires_at=ISSUED + timedelta(days=1)),
    ),
    both(
        "a certificate that ends soon",
        "warning",
        f"{FILE}:38",
        "it ends on",
        "Then REMOVE becomes REVIEW",
        "certify the policy again",
        certificate=text(expires_at=NOW + timedelta(days=13)),
    ),
    Row(
        "a certificate that would not be deployed",
        "warning",
        ("does not list it", f"add `- {FILE}`"),
        f"{FILE}:1",
        {FILE: text(), "Kustomization": "configMapGenerator: [{name: policies, files: [lakes.yaml]}]\n"},
    ),
    Row(
        "a golden set that would be deployed",
        "warning",
        ("lakes.golden.jsonl", "delete the line"),
        "Kustomization:4",
        {
            "Kustomization": "configMapGenerator:\n- files:\n  - lakes.yaml\n  - lakes.golden.jsonl\n",
            "lakes.golden.jsonl": "",
        },
    ),
]
SOUND_CERTIFICATES = [
    beside("a certificate", FILE, text(), "none"),
    both("a certificate that is required", "none", "", certificate=text()),
    both("a certificate that ends later", "none", "", certificate=text(expires_at=NOW + timedelta(days=15))),
    both(
        "a certificate with another version, status and severity",
        "none",
        "",
        certificate=text(),
        policy=REQUIRED.replace("version: 1", "version: 2\nseverity: high\non_error: allow"),
    ),
]
