"""`moderation policies live`: which policy set each role has, and which the latest verdicts carry.

A role reads its policies when it starts. A changed folder is in use once each role has been started again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moderation import settings
from moderation.cli import verdicts
from moderation.cli.options import Address, AsJson, out
from moderation.cli.top import reading as readings
from moderation.cli.top.reading import Reading
from moderation.types import Standing

if TYPE_CHECKING:
    from moderation.v1 import policy_pb2, verdict_pb2
    from moderation.v1.verdict_pb2 import Verdict

LATEST = 200  # verdicts that are looked at
DEFAULT = "127.0.0.1:9464"  # operations port of a worker
Versions = Mapping[str, str]  # by policy: version and status, as in "3 shadow"


@dataclass(frozen=True, slots=True)
class Use:
    """A policy set somewhere: in a folder, in a role, or in verdicts."""

    place: str
    digest: str = ""
    versions: Versions = field(default_factory=dict)
    since: str = ""  # UTC
    partial: bool = False  # whether policies may be left out: verdicts name those that applied
    former: bool = False  # verdicts that are older than the latest one
    certificates: Mapping[str, str] = field(default_factory=dict)  # by policy: `ID holds`, or `ID` and why it does not
    beside: Mapping[str, str] | None = None  # by policy that is asked: id of the certificate's file; None: not known
    problem: str = ""  # why it is not known


def live(
    endpoints: Annotated[
        list[str] | None,
        typer.Argument(
            help="host:port of the metrics of each worker and API; default MODERATION_OPS__LISTEN, without --api"
        ),
    ] = None,
    address: Address = None,
    folder: Annotated[
        Path | None, typer.Option("--policies", help="folder to compare with; default MODERATION_POLICIES if it exists")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print which policies and certificates workers, API and latest verdicts have. Exits with 1 if one has others."""
    loaded = settings.load()
    here = _folder(folder, loaded.policies)
    asks_api = address is not None or not endpoints
    targets = endpoints or ([] if address else [loaded.ops.listen or DEFAULT])
    uses = [*_workers(targets), *(asyncio.run(_api(address, address or loaded.api.listen)) if asks_api else ())]
    expected = here or next((use for use in uses if use.digest), None)
    if as_json:
        rows = [asdict(use) | {"same": _is_same(use, expected)} for use in uses]
        typer.echo(json.dumps({"folder": asdict(here) if here else None, "places": rows}, indent=1))
    else:
        for use in [here, *uses] if here else uses:
            out.print(*_lines(use, expected), sep="\n  ", highlight=False, markup=False)
    sys.exit(0 if all(_is_same(use, expected) for use in uses if not use.former) else 1)


def differences(use: Use, expected: Use) -> list[str]:
    """What another set has otherwise than the expected one, in words."""
    found = []
    for id in sorted({*use.versions, *expected.versions}):
        there, here = use.versions.get(id), expected.versions.get(id)
        if there is None:
            found += [] if use.partial else [f"{id} is missing"]
        elif here is None:
            found.append(f"{id} is version {there}, and not in {expected.place}")
        elif there != here:
            found.append(f"{id} is version {there}, and {here} in {expected.place}")
    unnamed = sorted({*expected.versions} - {*use.versions})
    if use.partial and not found and unnamed:
        return [f"none of these verdicts names {', '.join(unnamed)}"]
    return found or ["the versions are the same: a file was changed without a new version, or the service was updated"]


def _folder(named: Path | None, default: Path) -> Use | None:
    """The set of the folder that is named; of the default one, if it exists. Raises ConfigError."""
    from moderation.policies import PolicySet

    folder = named or default
    if named is None and not folder.is_dir():
        return None
    policy_set = PolicySet.load(folder)
    asked = [policy.id for policy in policy_set.policies if policy.asked]
    beside = {id: policy_set.certificates[id].id for id in asked if id in policy_set.certificates}
    return Use(str(folder), policy_set.digest, _versions(policy_set.versions), beside=beside)


def _workers(targets: Sequence[str]) -> list[Use]:
    """What the operations port of each role says."""
    urls = [readings.address(target) for target in targets]
    if not urls:
        return []
    with ThreadPoolExecutor(len(urls)) as pool:
        return [
            _of_metrics(target, reading) for target, reading in zip(targets, pool.map(readings.read, urls), strict=True)
        ]


def _of_metrics(target: str, reading: Reading) -> Use:
    named = [(name, dict(labels), value) for (name, labels), value in reading.samples.items()]
    role = next((labels["role"] for name, labels, _ in named if name == "moderation_build_info"), "role")
    place = f"{role} at {target}"
    digest = next((labels["digest"] for name, labels, _ in named if name == "moderation_policies_info"), "")
    if not digest:
        return Use(place, problem=reading.problem or "it has not read its policies")
    policies = [labels for name, labels, _ in named if name == "moderation_policy_info"]
    since = next((value for name, _, value in named if name == "moderation_policies_read_timestamp_seconds"), 0.0)
    versions = _versions((each["policy"], int(each["version"]), each["status"]) for each in policies)
    stand = [labels for name, labels, _ in named if name == "moderation_policy_certificate_info"]
    certificates = {each["policy"]: _standing(each["certificate"], each["standing"]) for each in stand}
    beside = {each["policy"]: each["certificate"] for each in stand if each["certificate"]}
    return Use(
        place,
        digest,
        versions,
        _time(since),
        certificates=dict(sorted(certificates.items())),
        beside=beside if role == "worker" else None,  # an API reads none
    )


async def _api(address: str | None, place: str) -> list[Use]:
    """What an API lists, and what the latest verdicts carry: the newest set first."""
    from moderation.client import CallError

    place = f"api at {place}"
    try:
        async with verdicts.connected(address) as client:
            listed = await client.policies()
            found: list[Verdict] = []
            async for verdict in client.list(page_size=LATEST):
                found.append(verdict)
                if len(found) == LATEST:
                    break
    except CallError as error:
        return [Use(place, problem=str(error))]
    versions = _versions((each.id, each.version, _status(each.status)) for each in listed.policies)
    since = _time(listed.read_at.ToMilliseconds() / 1000)
    return [Use(place, listed.digest, versions, since), *_of_verdicts(found)]


def _of_verdicts(found: Sequence[Verdict]) -> list[Use]:
    """One Use for each set in these verdicts, which begin with the latest."""
    by_digest: dict[str, list[Verdict]] = {}
    for verdict in found:
        by_digest.setdefault(verdict.policy_set.digest, []).append(verdict)
    uses: list[Use] = []
    for digest, carrying in by_digest.items():
        findings = [finding for verdict in carrying for finding in verdict.findings]
        versions = _versions((each.policy_id, each.policy_version, _mode(each.mode)) for each in findings)
        since = _time(carrying[-1].decided_at.ToMilliseconds() / 1000)
        state = (each.partition("=") for each in carrying[0].decision_state.split())
        certificates = {id: _named(standing) for id, _, standing in state}
        place = f"{len(carrying)} of the latest {len(found)} verdicts{', not the last one' if uses else ''}"
        partial = Use(place, digest, versions, since, partial=True, former=bool(uses), certificates=certificates)
        uses.append(partial)
    return uses


def _is_same(use: Use, expected: Use | None) -> bool:
    if expected is None or not use.digest or use.digest != expected.digest:
        return False
    return not _other_certificates(use, expected)


def _other_certificates(use: Use, expected: Use) -> list[str]:
    """The policies that stand beside another certificate than expected, in words. No digest of a set covers it."""
    if use.beside is None or expected.beside is None:
        return []
    return [
        f"{id} has {use.beside.get(id, 'none')}, and {expected.beside.get(id, 'none')} in {expected.place}"
        for id in sorted({*use.beside, *expected.beside})
        if use.beside.get(id) != expected.beside.get(id)
    ]


def _lines(use: Use, expected: Use | None) -> list[str]:
    since = f", since {use.since}" if use.since else ""
    if use.problem:
        return [f"{use.place}: {use.problem}"]
    if use is expected or expected is None:
        lines = [f"{use.place}{since}"]
    elif _is_same(use, expected):
        lines = [f"{use.place}{since}: the set of {expected.place}"]
    elif use.digest == expected.digest:
        others = "; ".join(_other_certificates(use, expected))
        lines = [f"{use.place}{since}: the set of {expected.place}, with other certificates: {others}"]
    else:
        lines = [f"{use.place}{since}: another set: {'; '.join(differences(use, expected))}"]
    versions = ", ".join(f"{id} {version}" for id, version in use.versions.items())
    lines += [f"digest {use.digest}", *([f"versions {versions}"] if versions else [])]
    certificates = ", ".join(f"{id} {standing}" for id, standing in use.certificates.items())
    return [*lines, *([f"certificates {certificates}"] if certificates else [])]


def _standing(certificate: str, standing: str) -> str:
    """A certificate, and how it stands with the model that judges."""
    return " ".join(filter(None, [certificate, "holds" if standing == "VALID" else standing]))


def _named(standing: str) -> str:
    """The same of a verdict's decision state, which names the certificate or why none holds."""
    return standing if standing in tuple(Standing) else f"{standing} holds"


def _versions(policies: Iterable[tuple[str, int, str]]) -> Versions:
    """By id, in its order: the version, and the status where it is not live."""
    return {id: f"{version}" if status == "live" else f"{version} {status}" for id, version, status in sorted(policies)}


def _status(status: policy_pb2.PolicyStatus) -> str:
    from moderation.v1.policy_pb2 import PolicyStatus

    return PolicyStatus.Name(status).removeprefix("POLICY_STATUS_").lower()


def _mode(mode: verdict_pb2.Mode) -> str:
    from moderation.v1.verdict_pb2 import MODE_SHADOW

    return "shadow" if mode == MODE_SHADOW else "live"


def _time(seconds: float) -> str:
    """In UTC, to the second; empty if it is not known."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if seconds else ""
