"""Which policies of a folder a command is about, and their golden sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from moderation.errors import ConfigError
from moderation.settings import MediaSettings

if TYPE_CHECKING:
    from moderation.evaluation.posts.golden import GoldenSet
    from moderation.policies import Policy, PolicySet

Set = tuple["Policy", "GoldenSet"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The policies of a folder that were chosen."""

    folder: Sequence[Policy]  # all of it
    sets: Sequence[Set]  # at least one
    without: Sequence[Policy]  # chosen, and there is no golden set


def chosen(folder: Path, golden: Path | None, id: str | None, media: MediaSettings) -> Chosen:
    """The policy `id`, or all of the folder. golden: a golden set of that policy, or of the one its name begins with.

    Raises ConfigError, also where there is no golden set at all.
    """
    from moderation.evaluation.posts import golden as sets
    from moderation.policies.loading import load_policies

    whole = load_policies(folder)
    if golden is not None and id is None:
        id = golden.name.removesuffix(sets.SUFFIX)
        if id not in {policy.id for policy in whole}:
            raise ConfigError(f"{golden}: its name is that of no policy: name the policy by --policy ID")
    policies = whole if id is None else [_named(id, whole, folder)]
    paths = {policy.id: golden or sets.beside(policy, folder) for policy in policies}
    for policy in policies:
        if policy.golden and paths[policy.id] is None:
            remedy = "write it, or delete the key"
            raise ConfigError(f"{folder / policy.id}.yaml: golden: there is no file {policy.golden}: {remedy}")
    if not any(paths.values()):
        name = f"{id or policies[0].id}{sets.SUFFIX}"
        raise ConfigError(f"{folder}: no golden set is beside the policy: write {name}, or name one by --golden FILE")
    return Chosen(
        folder=whole,
        sets=[(policy, sets.read(path, policy, media)) for policy in policies if (path := paths[policy.id])],
        without=[policy for policy in policies if not paths[policy.id]],
    )


def policy_of(folder: Path, id: str) -> Policy:
    """The policy with this id. Raises ConfigError."""
    from moderation.policies.loading import load_policies

    return _named(id, load_policies(folder), folder)


def alone(folder: Path, id: str) -> PolicySet:
    """The set of this policy alone, with its certificate. It counts whatever its status. Raises ConfigError."""
    from moderation.policies import PolicySet, certificates
    from moderation.policies.schema import PolicyStatus

    live = PolicySet.of([policy_of(folder, id).model_copy(update={"status": PolicyStatus.LIVE})])
    return replace(live, certificates=certificates.load(folder, [id]))


def _named(id: str, policies: Sequence[Policy], folder: Path) -> Policy:
    by_id = {policy.id: policy for policy in policies}
    if id not in by_id:
        raise ConfigError(f"{folder}: there is no policy {id}; the folder has {', '.join(by_id)}")
    return by_id[id]
