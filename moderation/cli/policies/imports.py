"""`moderation policies import` and `export`: a table with labels becomes a golden set, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moderation import settings
from moderation.cli.options import err, out
from moderation.cli.policies.chosen import policy_of
from moderation.errors import ConfigError, cause_of

if TYPE_CHECKING:
    from moderation.policies import Policy

Folder = Annotated[Path | None, typer.Argument(help="folder of the policy set; default MODERATION_POLICIES")]
Id = Annotated[str, typer.Option("--policy", help="id of the policy")]


def import_posts(
    file: Annotated[Path, typer.Argument(help="CSV with columns text, image, language, label; or JSON lines")],
    folder: Folder = None,
    *,
    policy: Id,
    append: Annotated[bool, typer.Option("--append", help="add to the golden set that is there")] = False,
    label: Annotated[
        list[str] | None,
        typer.Option(help="what a label of the file means, as in spam=P1; repeat the option for each"),
    ] = None,
) -> None:
    """Make a golden set of labelled posts. With a wrong row nothing is written: each is named, with what to do."""
    from moderation.evaluation.posts import golden, importing, tables

    loaded = settings.load()
    place = folder or loaded.policies
    chosen = policy_of(place, policy)
    target = place / (chosen.golden or f"{chosen.id}{golden.SUFFIX}")
    if target.exists() and not append:
        raise ConfigError(f"{target}: there is a golden set already: add --append to add to it")
    table = tables.read(file, loaded.media)
    found = importing.imported(table, chosen, target, loaded.media, _meanings(label or [], chosen))
    if found.mistakes:
        raise ConfigError("\n".join([*map(str, found.mistakes), "nothing was written: correct these rows first"]))
    if found.lines:
        importing.added(target, found.lines)
    if table.unread:
        err.print(f"not read: the columns {', '.join(table.unread)}", highlight=False, markup=False)
    twice = f", {found.known} were there already" if found.known else ""
    out.print(f"{target}: {len(found.lines)} posts added{twice}", highlight=False, markup=False)


def export_posts(
    folder: Folder = None,
    *,
    policy: Id,
    file: Annotated[
        Path | None, typer.Option("--out", help="CSV file to write, which must not exist; default standard output")
    ] = None,
) -> None:
    """Print a golden set as CSV for a spreadsheet. `policies import` reads it back."""
    from moderation.evaluation.posts import golden, importing

    loaded = settings.load()
    place = folder or loaded.policies
    chosen = policy_of(place, policy)
    path = golden.beside(chosen, place)
    if path is None:
        raise ConfigError(f"{place}: there is no {chosen.golden or f'{chosen.id}{golden.SUFFIX}'}: nothing to export")
    if file is not None and file.exists():
        raise ConfigError(f"{file}: the file exists, and may hold labels: name another, or delete it")
    text = importing.exported(golden.read(path, chosen, loaded.media), file)
    if file is None:
        typer.echo(text, nl=False)
        return
    try:
        file.write_text(text, encoding="utf-8-sig", newline="")  # Excel reads UTF-8 with this mark alone
    except OSError as error:
        raise ConfigError(f"{file}: not written: {cause_of(error)}") from None
    err.print(f"{file}: written", highlight=False, markup=False)


def _meanings(pairs: list[str], policy: Policy) -> dict[str, str]:
    """Labels of golden sets by labels of the file. Raises ConfigError."""
    from moderation.evaluation.posts.golden import ALLOWED, VIOLATES

    known = [VIOLATES, ALLOWED, *(clause.id for clause in (*policy.violates, *policy.allows))]
    meanings = {}
    for pair in pairs:
        word, sign, label = pair.rpartition("=")
        if not sign or label not in known:
            raise ConfigError(f"--label {pair}: must be WORD=LABEL, where LABEL is one of {', '.join(known)}")
        meanings[word] = label
    return meanings
