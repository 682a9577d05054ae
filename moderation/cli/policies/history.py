"""`moderation policies history`: which version of each policy was in use when, as past verdicts name it.

The topic keeps the latest verdict of each post alone, so an archive says more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from moderation import settings
from moderation.cli import progress
from moderation.cli.options import AsJson, out, table_console
from moderation.cli.periods import time_of
from moderation.errors import ConfigError
from moderation.observability import logs
from moderation.settings import KafkaSettings

if TYPE_CHECKING:
    from moderation.evaluation.traffic.history import Use, Version

SHOWN_DIGITS = 12  # of digests
Words = Mapping[Path, Mapping[str, Any]]  # by folder: its policies by id


def history(
    policy: Annotated[str | None, typer.Argument(help="id of a policy; default all")] = None,
    *,
    archive: Annotated[
        Path | None, typer.Option(help="folder that `moderation archive` writes; default: the verdicts topic")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="only from this time on: 90s, 30m, 6h or 2d ago, or 2026-01-31T22:00 (UTC)")
    ] = None,
    until: Annotated[str | None, typer.Option(help="only before this time, in the same forms")] = None,
    folder: Annotated[
        list[Path],
        typer.Option("--policies", help="folder with policies: says which version has its words; may be repeated"),
    ] = [],  # noqa: B006  typer copies it
    as_json: AsJson = False,
) -> None:
    """Print which version of each policy was in use when, from an archive or the verdicts topic."""
    loaded = settings.load()
    logs.configure(loaded.log.model_copy(update={"level": "warning"}))
    folders = folder or ([loaded.policies] if loaded.policies.is_dir() else [])
    words = _words(folders)
    period = time_of(since, "--since"), time_of(until, "--until")
    found = _of_archive(archive, period) if archive else asyncio.run(_of_topic(loaded.kafka, period))
    if policy is not None and policy not in found:
        raise ConfigError(f"no verdict names the policy {policy}; they name {', '.join(found) or 'none'}")
    chosen = {id: uses for id, uses in found.items() if policy in (None, id)}
    if as_json:
        members = {id: [_members(use, words) for use in uses] for id, uses in chosen.items()}
        typer.echo(json.dumps({"source": str(archive or loaded.kafka.verdicts_topic), "policies": members}, indent=1))
        return
    if not chosen:
        out.print("no verdicts of this period name a policy", highlight=False)
    for id, uses in chosen.items():
        _print(id, uses, words)


Period = tuple[datetime | None, datetime | None]


def _of_archive(folder: Path, period: Period) -> Mapping[str, Sequence[Use]]:
    from moderation.evaluation.traffic import archive, history

    return history.of(archive.batches(folder, history.COLUMNS, *period))


async def _of_topic(kafka: KafkaSettings, period: Period) -> Mapping[str, Sequence[Use]]:
    from moderation.evaluation.traffic.archiving import topic_batches
    from moderation.evaluation.traffic.history import History

    found = History()
    terminal: Console | None = progress.terminal()
    with ExitStack() as bar:
        async for batch in topic_batches(
            kafka, *period, lambda total: bar.enter_context(progress.shown("offsets", total, terminal))
        ):
            found.add(batch)
    return found.uses()


def _words(folders: Sequence[Path]) -> Words:
    """Raises ConfigError."""
    from moderation.policies.loading import load_policies

    return {folder: {policy.id: policy for policy in load_policies(folder)} for folder in folders}


def _named(version: Version, words: Words) -> list[str]:
    """The folders whose policy has the words of this version."""
    from moderation.policies.certificates import score_digest

    return [
        str(folder)
        for folder, policies in words.items()
        if (policy := policies.get(version.policy))
        and score_digest(policy, version.model_digest) == version.score_digest
    ]


def _print(id: str, uses: Sequence[Use], words: Words) -> None:
    out.print(id, style="bold", highlight=False, markup=False)
    table = Table("from (UTC)", "to", "version", "digest", box=None, pad_edge=False)
    for name in ("review", "remove", "verdicts"):
        table.add_column(name, justify="right")
    table.add_column("")
    for use in uses:
        version = use.version
        notes = ["" if version.counts else "shadow", version.certificate and f"certificate {version.certificate}"]
        notes += [f"words of {folder}" for folder in _named(version, words)]
        table.add_row(
            _time(use.begins),
            _time(use.ends),
            str(version.version),
            version.score_digest[:SHOWN_DIGITS] or "not recorded",
            f"{version.review:g}",
            f"{version.remove:g}",
            f"{use.verdicts:,}",
            ", ".join(filter(None, notes)),
        )
    table_console().print(table, highlight=False)
    models = dict.fromkeys(use.version.model for use in uses)
    out.print(f"judged by {', then '.join(models)}\n", highlight=False, markup=False)


def _members(use: Use, words: Words) -> dict[str, Any]:
    version = use.version._asdict()
    del version["policy"]
    times = {"begins": use.begins.isoformat(), "ends": use.ends.isoformat()}
    return times | {"verdicts": use.verdicts} | version | {"words_of": _named(use.version, words)}


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S")
