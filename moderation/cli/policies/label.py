"""`moderation policies label`: a screen in the terminal to label a sample. It shows no scores, and loses no label."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moderation import settings
from moderation.cli import keys
from moderation.cli.options import AsJson, out
from moderation.errors import ConfigError

if TYPE_CHECKING:
    from moderation.evaluation.samples.labels import Label, Pen, Settlement
    from moderation.evaluation.samples.samples import Item, Sample
    from moderation.policies import Policy

VIOLATES, ALLOWED, SKIP, UNDO, LEAVE = "vasuq"
OF_CLAUSES = "123456789bcdefghijklmnoprtwxyz"
SHOWN = "\n\t\u200d"  # of control characters and marks without a width, as they are: the last one joins emoji


@dataclass(frozen=True, slots=True)
class Choice:
    """A key, and what it says of an item."""

    key: str
    label: Label
    text: str


def label(
    sample: Annotated[Path, typer.Argument(help="file of the sample")],
    *,
    name: Annotated[
        str, typer.Option("--as", help="your name; each person has a file of labels beside the sample")
    ] = "",
    adjudicate: Annotated[bool, typer.Option("--adjudicate", help="decide items on which labellers differ")] = False,
    again: Annotated[
        list[int], typer.Option("--again", help="number of an item whose label is taken back first; may be repeated")
    ] = [],  # noqa: B006  typer copies it
    policies: Annotated[Path | None, typer.Option(help="folder of the policy; default MODERATION_POLICIES")] = None,
    as_json: AsJson = False,
) -> None:
    """Label a sample, one key for each post. Leave at any time: the same command goes on. --json says how far it is."""
    from moderation.evaluation.samples import labels

    policy = _policy(sample, policies or settings.load().policies)
    if as_json:
        typer.echo(json.dumps(_status(sample, labels.settled(sample, policy), policy), indent=1))
        return
    if bool(name) == adjudicate:
        raise ConfigError("give your name by --as NAME, or --adjudicate to decide disputes")
    if name == labels.ADJUDICATION:
        raise ConfigError(f"--as {name}: this name is for --adjudicate: take your own")
    settlement = labels.settled(sample, policy)
    notes = _disputes(sample, settlement, policy) if adjudicate else {item.number: "" for item in settlement.items}
    items = [item for item in settlement.items if item.number in notes]
    with labels.opened(sample, labels.ADJUDICATION if adjudicate else name, policy) as pen:
        for number in again:
            _take_back(pen, number)
        screen = Screen(policy, pen, items, notes)
        with suppress(KeyboardInterrupt), keys.opened() as key:
            screen.run(key)
    _say_end(sample, policies, screen, labels.settled(sample, policy), adjudicate=adjudicate)


def _policy(sample: Path, folder: Path) -> Policy:
    """The policy of a sample. Raises ConfigError where its words are other ones now."""
    from moderation.cli.policies.sample import named
    from moderation.evaluation.samples import samples
    from moderation.policies import score_digest

    drawn, _ = samples.read(sample)
    policy = named(drawn.policy, folder)
    if score_digest(policy, drawn.model_digest) != drawn.score_digest:
        raise ConfigError(
            f"{sample}:1: score_digest: the words of {policy.id} in {folder} are not those of version "
            f"{drawn.policy_version}, for which the sample was drawn: name the folder that has them by --policies, or "
            "draw another sample"
        )
    return policy


def _take_back(pen: Pen, number: int) -> None:
    """Raises ConfigError where the item has no label of this person."""
    from moderation.evaluation.samples.labels import Label, Said

    if number not in pen.labels:
        raise ConfigError(f"--again {number}: {pen.path.name} has no label of this item")
    pen.write(number, Label(Said.UNDONE))


class Screen:
    """Shows items one after another, and writes what keys say of them."""

    def __init__(self, policy: Policy, pen: Pen, items: Sequence[Item], notes: Mapping[int, str]) -> None:
        """notes: what is shown beside an item, by its number."""
        self.items = items
        self._policy = policy
        self._pen = pen
        self._notes = notes
        self._choices = choices_of(policy)

    @property
    def left(self) -> list[Item]:
        """The items without a label, in their order."""
        return [item for item in self.items if item.number not in self._pen.labels]

    def run(self, key: Callable[[], str]) -> None:
        """Goes on until all have a label, LEAVE, or no key comes. Raises ConfigError where a label is not kept."""
        note = ""
        while True:
            left = self.left
            if left:
                self._show(left[0], note)
            else:
                out.print(f"all have a label: {UNDO} takes the last one back, any other key ends", highlight=False)
            pressed = key()
            if pressed in (LEAVE, keys.END) or (not left and pressed != UNDO):
                return
            note = self._take(pressed, left[0] if left else None)

    def _take(self, pressed: str, item: Item | None) -> str:
        """Does what a key says. Returns what there is to say of it."""
        if pressed == UNDO:
            undone = self._pen.undo()
            return "there is no label to take back" if undone is None else f"the label of {undone} is taken back"
        choice = next((choice for choice in self._choices if choice.key == pressed), None)
        if choice is None or item is None:
            return f"{pressed} is no key here"
        self._pen.write(item.number, choice.label)
        return ""

    def _show(self, item: Item, note: str) -> None:
        if out.is_terminal:
            out.clear()
        done = len(self.items) - len(self.left)
        for line in [f"{item.number}: {done} of {len(self.items)} done", *_lines_of(item)]:
            out.print(line, highlight=False, markup=False)
        out.print()
        out.print(f"{self._policy.question}", style="bold", highlight=False, markup=False)
        for choice in self._choices:
            out.print(
                f"  {choice.key}  {choice.text}", highlight=False, markup=False, no_wrap=True, overflow="ellipsis"
            )
        ways = f"  {UNDO}  take the last label back   {LEAVE}  leave"
        for line in (ways, *filter(None, (self._notes[item.number], note))):
            out.print(line, highlight=False, markup=False)


def _lines_of(item: Item) -> Iterator[str]:
    """The post for a person: what could change what the terminal shows is written as a code."""
    post = item.post
    about = ", ".join(filter(None, (post.language, post.surface)))
    yield ""
    yield plain(post.text) if post.text.strip() else "(no text)"
    if about:
        yield f"({plain(about)})"
    for number, image in enumerate(post.images, 1):
        alt = f", alternative text: {plain(image.alt)}" if image.alt else ""
        unread = f", not readable: {image.problem.reason}" if image.problem else ""
        yield f"picture {number}{alt}{unread}"
    for file in item.files:
        yield f"  {file}"


def choices_of(policy: Policy) -> list[Choice]:
    """All that can be said of an item. Each clause has a key, while there are keys."""
    from moderation.evaluation.samples.labels import Label, Said

    found = [Choice(VIOLATES, Label(Said.VIOLATES), "violates"), Choice(ALLOWED, Label(Said.ALLOWED), "allowed")]
    clauses = [
        *((Said.VIOLATES, clause) for clause in policy.violates),
        *((Said.ALLOWED, clause) for clause in policy.allows),
    ]
    for key, (said, clause) in zip(OF_CLAUSES, clauses, strict=False):
        found.append(Choice(key, Label(said, clause.id), f"{said}, {clause.id}: {' '.join(clause.text.split())}"))
    return [*found, Choice(SKIP, Label(Said.UNDECIDABLE), "cannot be labelled; it counts against the policy")]


def plain(text: str) -> str:
    """A text as a terminal can show it: control characters and invisible marks as their code, as in <U+202E>."""
    return "".join(
        f"<U+{ord(character):04X}>"
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in SHOWN
        else character
        for character in text
    )


def _disputes(sample: Path, settlement: Settlement, policy: Policy) -> dict[int, str]:
    """Who says what of the items on which people differ, by number, also of those that are decided.

    Raises ConfigError where they differ nowhere.
    """
    from moderation.evaluation.samples import labels

    people = [sheet for sheet in labels.sheets(sample, policy) if sheet.labeller != labels.ADJUDICATION]
    found: dict[int, str] = {}
    for item in settlement.items:
        given = [sheet.labels.get(item.number) for sheet in people]
        if labels.settle(given)[0] is labels.Settled.DISPUTED:
            said = [(sheet.labeller, sheet.labels[item.number]) for sheet in people]
            found[item.number] = "; ".join(f"{name}: {label.clause or label.said}" for name, label in said)
    if not found:
        raise ConfigError(
            f"{sample}: nobody differs: {len(people)} have labelled, and --adjudicate has nothing to decide"
        )
    return found


def _status(sample: Path, settlement: Settlement, policy: Policy) -> dict[str, object]:
    """How far the labelling is. It names items by number alone."""
    from moderation.evaluation.samples import labels

    counts = Counter(settlement.labels)
    disputed = [
        item.number
        for item, label in zip(settlement.items, settlement.labels, strict=True)
        if label is labels.Settled.DISPUTED
    ]
    return {
        "sample": str(sample),
        "policy": policy.id,
        "items": len(settlement.items),
        "labellers": {sheet.labeller: len(sheet.labels) for sheet in labels.sheets(sample, policy)},
        "settled": {f"{settled}": counts[settled] for settled in labels.Settled},
        "disputed": disputed,
        "digest": settlement.digest,
    }


def next_step(drawn: Sample, path: Path, folder: Path | None) -> str:
    """The command that reads a labelled sample, by what it was drawn from. folder: of the policy, as it was given."""
    from moderation.evaluation.samples.samples import Region

    if drawn.region is Region.FLIPS:
        return f"moderation policies diff OLD NEW --policy {drawn.policy} --label {path}"
    option = {Region.ALLOW: "--misses", Region.POOL: "--pool"}.get(drawn.region, "--sample")
    return f"moderation policies certify {drawn.policy} {option} {path}{_in(folder)}"


def _in(folder: Path | None) -> str:
    return f" --policies {folder}" if folder else ""


def _say_end(sample: Path, folder: Path | None, screen: Screen, settlement: Settlement, *, adjudicate: bool) -> None:
    from moderation.evaluation.samples.labels import Settled

    counts = Counter(settlement.labels)
    left = len(screen.left)
    done = len(screen.items) - left
    lines = [f"{done} of {len(screen.items)} are {'decided' if adjudicate else 'labelled'}"]
    if left:
        lines[0] += ", and kept: the same command goes on"
    elif settlement.labellers and counts[Settled.UNLABELLED] and not adjudicate:
        lines.append(f"{counts[Settled.UNLABELLED]} have no label of one of {', '.join(settlement.labellers)} yet")
    if counts[Settled.DISPUTED]:
        lines.append(
            f"{counts[Settled.DISPUTED]} are disputed: moderation policies label {sample}{_in(folder)} --adjudicate"
        )
    if not counts[Settled.UNLABELLED] and not counts[Settled.DISPUTED]:
        lines.append(f"All is settled: {next_step(settlement.sample, sample, folder)}")
    for line in lines:
        out.print(line, highlight=False, markup=False)
