"""`moderation classify --posts FILE` and `--pictures FOLDER`: many posts with one load of the model."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table as Printed
from rich.text import Text

from moderation.cli import judging, progress
from moderation.cli.options import out, table_console
from moderation.cli.policies.chosen import alone
from moderation.errors import ConfigError, ModerationError
from moderation.observability import logs
from moderation.settings import Settings

if TYPE_CHECKING:
    from moderation.evaluation.posts.tables import Table
    from moderation.evaluation.testing.classified import Case, Judged
    from moderation.policies import PolicySet
    from moderation.types import ModelInfo
    from moderation.v1.verdict_pb2 import Finding

ENDINGS = (".csv", ".json", ".html")
FEW = 40  # posts that are printed one by one
MISSES = 100  # that are printed


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the options say."""

    source: Path  # a file of posts, or a folder of pictures
    is_pictures: bool
    file: Path | None  # to write
    policy: str | None  # judge by this one alone
    as_json: bool


@dataclass(frozen=True, slots=True)
class Done:
    """What was judged."""

    judged: Sequence[Judged]
    info: ModelInfo
    shown: Sequence[tuple[Judged, tuple[str, ...]]]  # with their pictures, for a page


def many(wanted: Wanted, folder: Path | None, model: str | None) -> None:
    """Judges the posts of a file or a folder. Exits with 1 if a row could not be read or a post not be judged."""
    from moderation.policies import PolicySet

    if wanted.file is not None and wanted.file.suffix.lower() not in ENDINGS:
        raise ConfigError(f"--out {wanted.file}: must end in {', '.join(ENDINGS)}")
    if wanted.file is not None and wanted.file.resolve() == wanted.source.resolve():
        raise ConfigError(f"--out {wanted.file}: this is the file of the posts: name another")
    if wanted.file is not None and wanted.file.suffix.lower() == ".html":
        from moderation.evaluation import report  # noqa: F401  says what to install before anything is judged
    loaded, terminal = judging.prepared(model)
    place = folder or loaded.policies
    policies = alone(place, wanted.policy) if wanted.policy else PolicySet.load(place)
    table = _table(wanted, loaded)
    cases, table = _cases(table, policies, wanted)
    for mistake in table.mistakes:
        logs.say(str(mistake))  # standard error itself is captured here: libraries print on it
    if table.unread:
        logs.say(f"not read: the columns {', '.join(table.unread)}")
    if not cases:
        raise ConfigError(f"{table.path}: no row could be read: nothing is judged")
    done = _done(cases, table, policies, wanted, loaded, terminal)
    _print(done, table, policies, wanted)
    if table.mistakes or not all(each.is_judged for each in done.judged):
        sys.exit(1)


def _table(wanted: Wanted, loaded: Settings) -> Table:
    from moderation.evaluation.posts import tables
    from moderation.evaluation.testing import classified

    if not wanted.is_pictures:
        return tables.read(wanted.source, loaded.media)
    table, others = classified.pictures(wanted.source, loaded.media)
    if others:
        logs.say(f"{wanted.source}: files that are no pictures, and were left out: {others}")
    return table


def _cases(table: Table, policies: PolicySet, wanted: Wanted) -> tuple[list[Case], Table]:
    """The rows with what their labels say. A row whose label says nothing is a mistake, and is left out."""
    from moderation.evaluation.posts.golden import SUFFIX
    from moderation.evaluation.posts.posts import WrongLineError
    from moderation.evaluation.testing.classified import Case
    from moderation.evaluation.testing.expected import expected
    from moderation.policies.mistakes import Kind, Mistake

    ids = {policy.id for policy in policies.policies}
    named = table.path.name.removesuffix(SUFFIX) if table.path.name.endswith(SUFFIX) else ""
    policy = wanted.policy or (named if named in ids else "")
    cases: list[Case] = []
    mistakes = list(table.mistakes)
    for row in table.rows:
        try:
            cases.append(Case(row, expected(row.label, policies.policies, policy)))
        except WrongLineError as mistake:
            mistakes.append(Mistake(Kind.ERROR, table.path, row.line, str(mistake)))
    mistakes.sort(key=lambda mistake: mistake.line)
    return cases, replace(table, mistakes=tuple(mistakes))


def _done(
    cases: Sequence[Case], table: Table, policies: PolicySet, wanted: Wanted, loaded: Settings, terminal: Console | None
) -> Done:
    """Judges, and says what is kept where that is interrupted."""
    finished: list[int] = []
    try:
        return asyncio.run(_judged(cases, table, policies, wanted, loaded, (terminal, finished)))
    except KeyboardInterrupt:
        done = f"interrupted: {len(finished)} of {len(cases)} posts are judged"
        if wanted.file is None:
            logs.say(f"{done}; nothing is kept without --out FILE")
        else:
            logs.say(f"{done}, and kept: the same command goes on from there")
        sys.exit(130)
    except ModerationError:
        if wanted.file is not None and finished:
            logs.say(f"{len(finished)} of {len(cases)} posts are judged, and kept: the same command goes on from there")
        raise


async def _judged(
    cases: Sequence[Case],
    table: Table,
    policies: PolicySet,
    wanted: Wanted,
    loaded: Settings,
    shown: tuple[Console | None, list[int]],
) -> Done:
    from moderation.evaluation.files import replaced
    from moderation.evaluation.progress_file import SUFFIX, ProgressFile
    from moderation.evaluation.testing import classified
    from moderation.evaluation.testing.thumbnails import thumbnails
    from moderation.moderator import Moderator

    terminal, finished = shown
    file = wanted.file
    async with judging.opened(loaded, table.folders) as (media, scorer):
        question = classified.question(policies, scorer.info.digest, loaded)
        kept = ProgressFile(file.with_name(f"{file.name}{SUFFIX}"), question) if file else None
        with kept if kept is not None else nullcontext(), progress.shown("posts", len(cases), terminal) as step:
            if kept is not None and len(kept):
                logs.say(f"{len(kept)} verdicts are kept from the last time")

            def stepped(more: int) -> None:
                finished.append(more)
                step(more)

            judged = await classified.judge(cases, Moderator(policies, media, scorer), kept, stepped)
            pages = classified.to_show(judged) if file and file.suffix.lower() == ".html" else []
            pictures = [(each, await thumbnails(media, each.row.post)) for each in pages]
            done = Done(judged, scorer.info, pictures)
            if file:
                replaced(file, _content(done, table, policies, file).encode())
            if kept is not None:
                kept.done()
            return done


def _content(done: Done, table: Table, policies: PolicySet, file: Path) -> str:
    """What the file holds."""
    from moderation.evaluation.testing import classified

    if file.suffix.lower() == ".csv":
        return classified.as_csv(done.judged, policies, table, file)
    if file.suffix.lower() == ".json":
        return json.dumps(classified.described(done.judged, table, policies), indent=1, ensure_ascii=False) + "\n"
    from moderation.evaluation import report

    labelled = [each for each in done.judged if each.expected]
    return report.page(
        "classify.html.j2",
        "Posts and their verdicts",
        source=table.path.name,
        posts=len(done.judged),
        model=done.info.name,
        caution=done.info.caution,
        digest=policies.digest,
        unread=len(table.mistakes),
        outcomes=_outcomes(done.judged),
        policies=classified.counts(done.judged, policies),
        labelled=len(labelled),
        missed=sum(bool(each.miss) for each in labelled),
        shown=done.shown,
        mistakes=table.mistakes,
        where=lambda each: f"line {each.row.line}" if table.path.is_file() else f"picture {each.row.line}",
        score=_score,
    )


def _outcomes(judged: Sequence[Judged]) -> list[tuple[str, int]]:
    found = Counter(each.outcome if each.is_judged else "not judged" for each in judged)
    return [(name, found[name]) for name in ("ALLOW", "REVIEW", "REMOVE", "not judged") if found[name]]


def _score(finding: Finding) -> str:
    return f"{finding.policy_id} {finding.probability:.3f}" if finding.HasField("probability") else finding.policy_id


def _print(done: Done, table: Table, policies: PolicySet, wanted: Wanted) -> None:
    from moderation.evaluation.testing import classified

    judged = done.judged
    if wanted.as_json:
        typer.echo(json.dumps(classified.described(judged, table, policies), indent=1, ensure_ascii=False))
        return
    if len(judged) <= FEW:
        _print_posts(judged)
    _print_policies(classified.counts(judged, policies))
    labelled = [each for each in judged if each.expected]
    if labelled:
        _print_misses(labelled)
    summed = ", ".join(f"{number} {name}" for name, number in _outcomes(judged))
    out.print(f"{len(judged)} posts: {summed}; model {done.info.name}", highlight=False, markup=False)
    if table.mistakes:
        out.print(f"rows that could not be read: {len(table.mistakes)}", highlight=False)
    if wanted.file:
        out.print(f"written to {wanted.file}", highlight=False, markup=False)
    if done.info.caution:
        out.print(f"{done.info.name}: {done.info.caution}", highlight=False, markup=False)


def _print_posts(judged: Sequence[Judged]) -> None:
    shown = Printed("line", "post", "outcome", "status", "policy and P", box=None, pad_edge=False)
    for each in judged:
        status = " ".join([each.status, *each.problems])
        score = _score(each.finding) if each.finding else "-"
        shown.add_row(str(each.row.line), Text(each.row.post.id), each.outcome, Text(status), score)
    table_console().print(shown)
    out.print()


def _print_policies(rows: Sequence[tuple[str, Counter[str]]]) -> None:
    shown = Printed("policy", box=None, pad_edge=False)
    for name in ("ALLOW", "REVIEW", "REMOVE", "no score"):
        shown.add_column(name, justify="right")
    for policy, found in rows:
        shown.add_row(policy, *(str(found[name]) for name in ("ALLOW", "REVIEW", "REMOVE", "-")))
    table_console().print(shown)
    out.print()


def _print_misses(labelled: Sequence[Judged]) -> None:
    misses = [each for each in labelled if each.miss]
    right = len(labelled) - len(misses)
    out.print(f"{right} of {len(labelled)} posts with a label are as labelled", style="bold", highlight=False)
    if not misses:
        return
    shown = Printed("line", "post", "label", "outcome", "policy and P", "", box=None, pad_edge=False)
    for each in misses[:MISSES]:
        score = _score(each.finding) if each.finding else "-"
        post = each.row.post.id
        shown.add_row(str(each.row.line), Text(post), Text(each.row.label), each.outcome, score, str(each.miss))
    table_console().print(shown)
    if len(misses) > MISSES:
        out.print(f"and {len(misses) - MISSES} more: --out FILE.csv has all", highlight=False)
    out.print()
