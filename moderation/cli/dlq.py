"""`moderation dlq`: lists dead letters, shows one, and puts them on the posts topic again. Never prints content."""

from __future__ import annotations

import asyncio
import heapq
import json
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moderation import settings
from moderation.cli import explain
from moderation.cli.options import AsJson, err, out, table_console
from moderation.cli.periods import time_of
from moderation.errors import ConfigError
from moderation.observability import logs
from moderation.settings import Settings
from moderation.types import Reason

if TYPE_CHECKING:
    from moderation.dead_letters.decisions import Decision
    from moderation.dead_letters.letters import Letter, Selection

app = typer.Typer(no_args_is_help=True, help="List dead letters, show one, or put them on the posts topic again.")

Reasons = Annotated[
    list[str], typer.Option("--reason", help="only dead letters with this reason, such as UNAVAILABLE; may be repeated")
]
Since = Annotated[
    str | None, typer.Option(help="only from this time on: 90s, 30m, 6h or 2d ago, or 2026-01-31T22:00 (UTC)")
]
Until = Annotated[str | None, typer.Option(help="only before this time, in the same forms")]
Partition = Annotated[int | None, typer.Option(min=0, help="only of this partition")]
Key = Annotated[str, typer.Option(help="only with this key")]
PostId = Annotated[str, typer.Option("--post", help="only of the post with this id")]
OfTenant = Annotated[str, typer.Option(help="only of this tenant")]


@app.command(name="list")
def list_letters(
    *,
    reason: Reasons = [],  # noqa: B006  typer copies it
    since: Since = None,
    until: Until = None,
    partition: Partition = None,
    key: Key = "",
    post: PostId = "",
    tenant: OfTenant = "",
    limit: Annotated[int, typer.Option(min=0, help="how many are shown, the newest; with --json all are")] = 50,
    as_json: AsJson = False,
) -> None:
    """Print dead letters and how many there are for each reason. With --json: one a line, in no order."""
    loaded = _loaded()
    selection = _selection(reason, since, until, partition=partition, key=key, post_id=post, tenant=tenant)
    shown: list[tuple[int, int, int, Letter]] = []
    counts: Counter[tuple[str, str]] = Counter()

    async def collect() -> None:
        async for letter in _letters(loaded, selection):
            counts[letter.reason or "unknown", letter.detail] += 1
            if as_json:
                out.print(json.dumps(_members(letter)), highlight=False, markup=False)
            elif limit:
                push = heapq.heappush if len(shown) < limit else heapq.heappushpop
                push(shown, (letter.timestamp_ms, *letter.place, letter))

    asyncio.run(collect())
    if not as_json:
        _table([letter for *_, letter in sorted(shown)])
        _counts(counts, len(shown))


@app.command()
def show(
    position: Annotated[str, typer.Argument(help="PARTITION/OFFSET on the dead-letter topic, as list prints it")],
    *,
    save: Annotated[Path | None, typer.Option(help="write the value to this new file: it is what a user wrote")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a dead letter, what to do, and whether it can be replayed; never its content."""
    loaded = _loaded()
    partition, offset = _place(position)

    async def print_all() -> None:
        from moderation.dead_letters.letters import Selection, letter_of
        from moderation.dead_letters.replay import Order, replay
        from moderation.kafka.lookup import record_at

        record = await record_at(loaded.kafka, loaded.kafka.dead_letters, partition, offset)
        letter = letter_of(record)
        own = [name for name, _ in record.headers if not name.startswith("dlq.")]
        if save is not None:
            _save(save, record.value or b"", letter)

        async def decided() -> Decision | None:
            """None: Kafka has removed the dead letter meanwhile."""
            order = Order(Selection(places=frozenset({(partition, offset)})))
            return next(iter([decision async for decision in replay(loaded.kafka, order)]), None)

        if as_json:
            fate = _members_of(decision) if (decision := await decided()) else None
            more = {"letter": _members(letter), "headersOfRecord": own, "replay": fate}
            await explain.of_record(record, loaded, as_json, more)
            return
        await explain.of_record(record, loaded, as_json)
        names = ", ".join(name if name.isprintable() else ascii(name) for name in own)
        kept = f"own headers: {names}" if own else "the record had no headers"
        out.print(kept, highlight=False, markup=False)
        # Last, because it reads all verdicts since then.
        if decision := await decided():
            named = " if its position is named" if decision.skip is None and not decision.at else ""
            out.print(f"replay: {_fate(decision)}{named}", highlight=False, markup=False)

    asyncio.run(print_all())


@app.command()
def replay(
    positions: Annotated[
        list[str] | None,
        typer.Argument(help="PARTITION/OFFSET on the dead-letter topic; default: all that fit and may have passed"),
    ] = None,
    *,
    reason: Reasons = [],  # noqa: B006  typer copies it
    since: Since = None,
    until: Until = None,
    partition: Partition = None,
    key: Key = "",
    post: PostId = "",
    tenant: OfTenant = "",
    yes: Annotated[bool, typer.Option("--yes", help="write; without it, only say what would be done")] = False,
    unproven: Annotated[
        bool, typer.Option("--unproven", help="also where the verdicts topic no longer has the record's verdict")
    ] = False,
    rate: Annotated[float, typer.Option(min=0, help="dead letters per second; 0: no limit")] = 50.0,
    as_json: AsJson = False,
) -> None:
    """Put records on the posts topic again, but for posts that came again or were erased later. With --yes alone."""
    loaded = _loaded()
    places = frozenset(_place(position) for position in positions or ())
    of_post = {"key": key, "post_id": post, "tenant": tenant}
    selection = _selection(reason, since, until, partition=partition, places=places, **of_post)

    async def run() -> None:
        from moderation.dead_letters.replay import Order
        from moderation.dead_letters.replay import replay as decisions

        counts: Counter[str] = Counter()
        try:
            async for decision in decisions(loaded.kafka, Order(selection, yes, unproven, rate)):
                counts["" if decision.skip is None else decision.skip.why] += 1
                line = json.dumps(_members_of(decision)) if as_json else f"{_name(decision.letter)}: {_fate(decision)}"
                out.print(line, highlight=False, markup=False)
        finally:
            if counts or not sys.exc_info()[0]:
                _summary(counts, written=yes)

    asyncio.run(run())


async def _letters(loaded: Settings, selection: Selection) -> AsyncIterator[Letter]:
    from moderation.dead_letters.letters import letters
    from moderation.kafka.ranges import open_consumer
    from moderation.kafka.topics import partitions_of

    kafka = loaded.kafka
    count = (await partitions_of(kafka, [kafka.dead_letters]))[kafka.dead_letters]
    async with open_consumer(kafka) as consumer:
        async for letter, _ in letters(consumer, kafka, count, selection):
            yield letter


def _loaded() -> Settings:
    loaded = settings.load()
    logs.configure(loaded.log.model_copy(update={"level": "error"}))
    return loaded


def _selection(reasons: list[str], since: str | None, until: str | None, **others: Any) -> Selection:
    """others: further fields. Raises ConfigError."""
    from moderation.dead_letters.letters import Selection

    if unknown := [reason for reason in reasons if reason.upper() not in set(Reason)]:
        raise ConfigError(f"--reason: there is no {', '.join(unknown)}; protos/reason-codes.md has the reasons")
    named = frozenset(reason.upper() for reason in reasons)
    return Selection(named, _time(since, "--since"), _time(until, "--until"), **others)


def _time(text: str | None, option: str) -> int | None:
    """Milliseconds since 1970. Raises ConfigError."""
    at = time_of(text, option)
    return None if at is None else int(at.timestamp() * 1000)


def _place(position: str) -> tuple[int, int]:
    """Partition and offset. Raises ConfigError."""
    match = re.fullmatch(r"(?:[A-Za-z0-9._-]+/)?(\d{1,9})/(\d{1,18})", position)
    if match is None:
        raise ConfigError(f"{position!r} is no position: give PARTITION/OFFSET, as `moderation dlq list` prints it")
    return int(match[1]), int(match[2])


def _table(letters: list[Letter]) -> None:
    from rich.table import Table

    table = Table("position", "time (UTC)", "post", "tenant", "reason", "where", "original", "value", box=None)
    for letter in letters:
        where = ": ".join(part for part in (letter.path, letter.detail) if part)
        table.add_row(
            f"{letter.partition}/{letter.offset}",
            _at(letter.timestamp_ms),
            letter.post_id,
            letter.tenant,
            letter.reason,
            where,
            _original(letter),
            f"{letter.size:,} bytes" if letter.whole else f"{letter.size:,} bytes, not kept whole",
        )
    if letters:
        table_console().print(table, highlight=False, markup=False)


def _counts(counts: Counter[tuple[str, str]], shown: int) -> None:
    total = counts.total()
    if not total:
        err.print("no dead letters", highlight=False, markup=False)
        return
    out.print(f"{total:,} in all, {shown:,} shown:", highlight=False, markup=False)
    for (reason, detail), count in counts.most_common():
        out.print(f"  {count:,} {reason}{f' ({detail})' if detail else ''}", highlight=False, markup=False)


def _summary(counts: Counter[str], *, written: bool) -> None:
    from moderation.dead_letters.decisions import TEXTS, Why

    replayed = counts.pop("", 0)
    verb = "were replayed" if written else "would be replayed"
    err.print(f"{replayed:,} {verb}, {counts.total():,} skipped", highlight=False, markup=False)
    for why, count in counts.most_common():
        err.print(f"  {count:,} {why}: {TEXTS[Why(why)]}", highlight=False, markup=False)
    if replayed and not written:
        err.print("nothing was written: --yes does it", highlight=False, markup=False)


def _name(letter: Letter) -> str:
    of = f" of {letter.post_id}" if letter.post_id else ""
    return f"{letter.partition}/{letter.offset}{of}, {letter.reason or 'unknown reason'}"


def _fate(decision: Decision) -> str:
    if decision.skip is not None:
        return f"skipped, because {decision.skip}"
    return f"replayed as {decision.at}" if decision.at else "would be replayed"


def _members(letter: Letter) -> dict[str, Any]:
    return {
        "position": f"{letter.partition}/{letter.offset}",
        "time": _at(letter.timestamp_ms),
        "key": None if letter.key is None else letter.key.decode("utf-8", "backslashreplace"),
        "post": letter.post_id,
        "tenant": letter.tenant,
        "reason": letter.reason,
        "path": letter.path,
        "detail": letter.detail,
        "original": _original(letter),
        "bytes": letter.size,
        "whole": letter.whole,
    }


def _members_of(decision: Decision) -> dict[str, Any]:
    skip = decision.skip
    done = "skipped" if skip else "replayed" if decision.at else "would be replayed"
    said = {"why": skip.why, "meaning": str(skip), "later": skip.where} if skip else {}
    return _members(decision.letter) | {"fate": done, "replayedAs": decision.at} | said


def _original(letter: Letter) -> str:
    source = letter.original
    return f"{source.topic}/{source.partition}/{source.offset}" if source else ""


def _at(timestamp_ms: int) -> str:
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return ""


def _save(file: Path, value: bytes, letter: Letter) -> None:
    """Writes a new file that its owner alone may read. Raises ConfigError."""
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
            written.write(value)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    cut = "" if letter.whole else f" of {letter.size:,}; the dead letter does not hold more"
    err.print(f"{file}: {len(value):,} bytes{cut}", highlight=False, markup=False)
