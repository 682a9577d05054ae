"""`moderation archive`: verdicts of the topic become Parquet by day, without content."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from moderation import settings
from moderation.cli import progress
from moderation.cli.options import AsJson, err, out
from moderation.observability import logs
from moderation.settings import KafkaSettings

if TYPE_CHECKING:
    from moderation.evaluation.traffic.archive import Archive
    from moderation.evaluation.traffic.archiving import Archived


def archive(
    folder: Annotated[Path, typer.Argument(help="folder of the archive; a new one is made")],
    *,
    follow: Annotated[bool, typer.Option("--follow", help="go on with new verdicts, until it is interrupted")] = False,
    every: Annotated[float, typer.Option(min=1, help="with --follow: seconds between two runs")] = 300,
    as_json: AsJson = False,
) -> None:
    """Write new verdicts to Parquet files by day, without content, from where the last run ended."""
    loaded = settings.load()
    logs.configure(loaded.log.model_copy(update={"level": "warning"}))
    terminal = progress.terminal()
    asyncio.run(_archive(loaded.kafka, folder, every if follow else None, terminal, as_json))


async def _archive(
    kafka: KafkaSettings, folder: Path, every: float | None, terminal: Console | None, as_json: bool
) -> None:
    from moderation.evaluation.traffic.archive import Archive

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop)
    with Archive.opened(folder) as opened:
        while True:
            done = await _run(kafka, opened, stop, terminal)
            _say(done, folder, stop.is_set(), as_json)
            if every is None or stop.is_set():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await stop.wait()
            if stop.is_set():
                return


def _stop(stop: asyncio.Event) -> None:
    """At the first signal: what was read is written, and the command ends. At the second it ends at once."""
    stop.set()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)


async def _run(kafka: KafkaSettings, archive: Archive, stop: asyncio.Event, terminal: Console | None) -> Archived:
    from moderation.evaluation.traffic.archiving import Run

    with ExitStack() as bar:
        return await Run(kafka, archive, stop).go(
            lambda total: bar.enter_context(progress.shown("offsets", total, terminal))
        )


def _say(done: Archived, folder: Path, stopped: bool, as_json: bool) -> None:
    if as_json:
        out.print(json.dumps(asdict(done) | {"interrupted": stopped}), highlight=False, markup=False)
        return
    words = [f"{folder}: {done.verdicts:,} verdicts added"]
    words += [f"{done.erased:,} went, because their posts were erased"] if done.erased else []
    words += [f"{done.unread:,} records are no verdicts"] if done.unread else []
    out.print(", ".join(words), highlight=False, markup=False)
    if done.recreated:
        err.print("the topic was deleted and made again: it was read from its beginning", highlight=False)
    if done.late:
        text = "the last run was more than 12 hours ago: Kafka may have removed erasures, whose posts are still here"
        err.print(f"{text}; archive more often", highlight=False)
    if done.lost:
        err.print(
            f"Kafka had removed up to {done.lost:,} records before they were read: archive more often", highlight=False
        )
    if stopped:
        err.print("interrupted: the same command goes on from here", highlight=False)
