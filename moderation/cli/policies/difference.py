"""What `moderation policies diff` prints, as text, JSON and HTML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table
from rich.text import Text

from moderation.cli.options import out, table_console
from moderation.types import Outcome

if TYPE_CHECKING:
    from moderation.evaluation.changes.changes import Change, Effect, Flip, Load, Pair, Quality
    from moderation.evaluation.changes.comparing import Judged
    from moderation.evaluation.changes.promotion import Held
    from moderation.evaluation.changes.strata import Bounds
    from moderation.evaluation.changes.wording import PolicyChange
    from moderation.types import ModelInfo, Post

VOID = (
    "no certificate of the old words holds for the new ones, so each REMOVE becomes REVIEW until they are certified; "
    "--certified decides as if they were"
)
ALIKE = "both sets ask the same and decide alike: nothing to compare"


@dataclass(frozen=True, slots=True)
class Compared:
    """All that is known of a change."""

    words: tuple[PolicyChange, ...]
    change: Change
    qualities: Mapping[str, Quality]  # by id of policy
    limits: tuple[Held, ...]
    judged: Sequence[Judged]  # by the old version and by the new one; empty: no model was asked
    models: Sequence[ModelInfo]  # of both
    source: str
    posts: Mapping[str, Post]  # by id; those that were judged
    pairs: Sequence[Pair]
    folders: frozenset[Path]  # of pictures that lie in files
    left_out: Mapping[str, int]  # of a topic: posts that could not be read, by why


def print_alike(as_json: bool, unasked: Sequence[str]) -> None:
    """Says that there is nothing to compare. unasked: ids of policies that differ, and that no post is asked about."""
    if as_json:
        typer.echo(json.dumps({"changes": [], "unasked": list(unasked), "passed": True}))
        return
    more = f"; not asked by either, and different: {', '.join(unasked)}: name one by --policy ID" if unasked else ""
    say(f"{ALIKE}{more}")


def print_words(changes: Sequence[PolicyChange]) -> None:
    """The words and keys that differ, by policy."""
    from moderation.evaluation.changes.wording import Part, changed_lines

    styles = {Part.SAME: "", Part.GONE: "red strike", Part.NEW: "green"}
    marks = {Part.SAME: "{}", Part.GONE: "[-{}-]", Part.NEW: "{{+{}+}}"}
    for change in changes:
        out.print(title_of(change), style="bold", highlight=False, markup=False)
        for line in changed_lines(change.words) if change.old and change.new else ():
            shown = [(marks[piece.part].format(piece.text), styles[piece.part]) for piece in line]
            out.print(Text.assemble("  ", *shown), highlight=False)
        for key in change.keys:
            out.print(f"  {key.key}: {key.old} -> {key.new}", highlight=False, markup=False)
        if change.unraised:
            out.print("  its version was not raised: raise `version`", highlight=False, markup=False)
        if change.old and change.new and change.words and change.new.certificate:
            out.print(f"  {VOID}", highlight=False, markup=False)
    if changes:
        out.print()


def title_of(change: PolicyChange) -> str:
    """What became of the policy, in a few words."""
    if change.old is None:
        return f"{change.id}: new, version {change.new.version if change.new else ''}"
    if change.new is None:
        return f"{change.id}: no longer asked, was version {change.old.version}"
    what = [word for word, there in (("other words", change.words), ("other keys", change.keys)) if there]
    return f"{change.id}: version {change.old.version} to {change.new.version}, {' and '.join(what)}"


def basis(compared: Compared) -> str:
    """What the intervals hold for."""
    change = compared.change
    if not compared.judged:
        return f"all {change.judged} verdicts of {compared.source} that can be decided again: these figures are exact"
    if change.population is None:
        return f"{change.judged} posts of {compared.source}; the intervals hold if these were drawn at random"
    if change.judged == change.population:
        return f"all {change.judged} posts of {compared.source}: these figures are exact"
    strata = f"{len(change.strata)} strata" if len(change.strata) > 1 else "one stratum"
    return f"{change.judged} of {change.population} posts of {compared.source}, drawn at random from {strata}"


def print_change(compared: Compared) -> None:
    """All figures."""
    change = compared.change
    say(basis(compared))
    if change.judged != change.population:
        say(f"Intervals are exact (Clopper-Pearson, {change.confidence:.0%}), each for itself.")
    for why, number in compared.left_out.items():
        say(f"left out: {number}, {why}")
    if change.unjudged:
        say(f"{change.unjudged} posts were not judged in full: a picture or the model was away; compare again later")
    out.print()
    changed = {each.id for each in compared.words}
    still = []
    # The outcome of posts is that of the only policy.
    for effect in change.effects[1:] if len(change.effects) == 2 else change.effects:
        if not effect.policy or effect.policy in changed or any(cell.judged for cell in effect.cells):
            _print_effect(effect, compared)
        else:
            still.append(effect.policy)
    if still:
        say(f"unchanged, and no post flips: {', '.join(still)}")
        out.print()
    _print_cost(compared)
    print_limits(compared.limits)
    for info in {info.name: info for info in compared.models}.values():
        if info.caution:
            say(f"{info.name}: {info.caution}")


def print_limits(limits: Sequence[Held]) -> None:
    """The limits of gates, and whether they are kept."""
    for limit in limits:
        figure = "unknown" if limit.figure is None else f"{limit.figure:.4g}"
        verdict = "kept" if limit.kept else f"not kept: {limit.remedy}"
        say(f"gate of {limit.policy}: {limit.key} {figure} (at most {limit.limit:g}): {verdict}")


def say(text: str) -> None:
    """Prints a line as it is."""
    out.print(text, highlight=False, markup=False)


def _print_effect(effect: Effect, compared: Compared) -> None:
    out.print(f"{effect.policy}" if effect.policy else "Outcome of posts", style="bold", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    for name in ("", "posts", "share", "interval"):
        table.add_column(name, justify="right" if name in ("posts", "share") else "left")
    for cell in effect.cells:
        if cell.judged:
            table.add_row(f"{cell.before.name} to {cell.after.name}", f"{cell.judged}", *_shown(cell.share))
    seen = sum(cell.judged for cell in effect.cells)
    table.add_row("all flips", f"{seen}", *_shown(effect.flips))
    table_console().print(table)
    for name, load in (("flagged", effect.flagged), ("to review", effect.review), ("removed", effect.removed)):
        say(f"{name}: {load_words(load)}")
    if effect.policy:
        quality = compared.qualities[effect.policy]
        if quality.labelled:
            print_quality(quality)
        for words, flips in (("nearest to the threshold", effect.nearest), ("farthest from it", effect.farthest)):
            for line in (f"{words}:", *(f"  {flip_words(flip)}" for flip in flips)) if flips else ():
                say(line)
    moved = [each for each in effect.slices if each.flips]
    for each in moved:
        say(f"{each.key} {each.value}: {each.flips} of {each.judged} flip, an estimated {each.share:.1%}")
    out.print()


def print_quality(quality: Quality) -> None:
    """What the labels of flips say."""
    say(f"labels: {quality.labelled} of {quality.flips} posts that one version alone flags")
    for name, bounds in (("rightly flagged", quality.hits), ("wrongly flagged", quality.false_alarms)):
        say(f"{name}: between {bounds.low:+.2%} and {bounds.high:+.2%} of posts")


def load_words(load: Load) -> str:
    """A load before and after, and its change."""
    change = load.change
    times = f", {load.times:.3g} times as many" if load.times is not None else ""
    return (
        f"{load.before.value:.2%} before, {load.after.value:.2%} after, "
        f"change {change.value:+.2%} ({change.low:+.2%} to {change.high:+.2%}){times}"
    )


def flip_words(flip: Flip) -> str:
    """A flip, without the post's content."""
    old, new = ("-" if number is None else f"{number:.3f}" for number in (flip.old, flip.new))
    return f"{flip.post_id}, {flip.before.name} to {flip.after.name}, P(Yes) {old} to {new}"


def _shown(bounds: Bounds) -> tuple[str, str]:
    return f"{bounds.value:.2%}", f"{bounds.low:.2%} to {bounds.high:.2%}"


def cost_words(compared: Compared) -> Iterator[str]:
    """What the model has taken, and what all posts of the population would take."""
    if not compared.judged:
        yield "decided from the scores of past verdicts; no model was asked"
        return
    for name, judged in zip(("OLD", "NEW"), compared.judged, strict=True):
        if not judged.asked:
            yield f"{name}: all scores were known from verdicts or earlier runs; the model was asked nothing"
            continue
        per_post = judged.model_s / judged.asked
        whole = compared.change.population
        more = f", {per_post * whole:.0f} s for all {whole} posts" if whole and whole > judged.asked else ""
        each = f"{per_post * 1000:.1f} ms a post"
        yield f"{name}: {judged.model_s:.2f} model seconds for {judged.asked} posts, {each}{more}"


def _print_cost(compared: Compared) -> None:
    for line in cost_words(compared):
        say(line)


def described(compared: Compared) -> dict[str, Any]:
    """The figures as JSON. Shares are of the population."""
    change = compared.change
    return {
        "source": compared.source,
        "models": [{"name": info.name, "digest": info.digest} for info in compared.models],
        "changes": [_words_of(each) for each in compared.words],
        "judged": change.judged,
        "population": change.population,
        "confidence": change.confidence,
        "strata": [{"name": each.name, "size": each.size, "judged": each.judged} for each in change.strata],
        "left_out": dict(compared.left_out),
        "unjudged": change.unjudged,
        "effects": [_effect_of(effect) for effect in change.effects],
        "quality": [quality_members(quality) for quality in compared.qualities.values()],
        "cost": [{"asked": each.asked, "model_s": each.model_s} for each in compared.judged],
        "gate": [limit_members(limit) for limit in compared.limits],
        "passed": all(limit.kept for limit in compared.limits),
    }


def _words_of(change: PolicyChange) -> dict[str, Any]:
    return {
        "policy": change.id,
        "versions": [change.old and change.old.version, change.new and change.new.version],
        "words": [{"part": piece.part, "text": piece.text} for piece in change.words],
        "keys": [{"key": key.key, "old": key.old, "new": key.new} for key in change.keys],
    }


def _effect_of(effect: Effect) -> dict[str, Any]:
    return {
        "policy": effect.policy or None,
        "flips": _bounds_of(effect.flips),
        "cells": [
            {
                "before": cell.before.name,
                "after": cell.after.name,
                "judged": cell.judged,
                "share": _bounds_of(cell.share),
            }
            for cell in effect.cells
        ],
        **{
            name: {
                "before": _bounds_of(load.before),
                "after": _bounds_of(load.after),
                "change": _bounds_of(load.change),
                "times": load.times,
            }
            for name, load in (("flagged", effect.flagged), ("review", effect.review), ("removed", effect.removed))
        },
        "slices": [
            {"key": each.key, "value": each.value, "judged": each.judged, "flips": each.flips, "estimate": each.share}
            for each in effect.slices
        ],
        "nearest": [_flip_of(flip) for flip in effect.nearest],
        "farthest": [_flip_of(flip) for flip in effect.farthest],
    }


def quality_members(quality: Quality) -> dict[str, Any]:
    """What the labels of flips say, as JSON."""
    names = ("new_hits", "lost_hits", "new_false_alarms", "gone_false_alarms", "hits", "false_alarms")
    return {
        "policy": quality.policy,
        "flips": quality.flips,
        "labelled": quality.labelled,
        "confidence": quality.confidence,
        **{name: [getattr(quality, name).low, getattr(quality, name).high] for name in names},
    }


def limit_members(limit: Held) -> dict[str, Any]:
    """A limit of a gate, as JSON."""
    return {name: getattr(limit, name) for name in ("policy", "key", "limit", "figure", "kept")}


def _bounds_of(bounds: Bounds) -> dict[str, float]:
    return {"low": bounds.low, "estimate": bounds.value, "high": bounds.high}


def _flip_of(flip: Flip) -> dict[str, Any]:
    return {
        "post": flip.post_id,
        "slices": dict(flip.slices),
        "before": flip.before.name,
        "after": flip.after.name,
        "probability": [flip.old, flip.new],
        "beyond": flip.beyond,
    }


def write_page(path: Path, compared: Compared) -> None:
    """The report. Raises ConfigError where the file cannot be written."""
    from moderation.evaluation import report
    from moderation.evaluation.changes.wording import changed_lines
    from moderation.evaluation.files import replaced

    text = report.page(
        "diff.html.j2",
        "What the change does",
        compared=compared,
        basis=basis(compared),
        costs=list(cost_words(compared)),
        title_of=title_of,
        changed_lines=changed_lines,
        load_words=load_words,
        plot=_plot(compared),
        outcomes=[outcome.name for outcome in Outcome],
    )
    replaced(path, text.encode())


def _plot(compared: Compared) -> Any:
    """Flips by policy with their intervals."""
    from moderation.evaluation import report

    effects = compared.change.effects
    figure = report.figure(6.5, 0.9 + 0.4 * len(effects))
    axes = figure.subplots()
    for row, effect in enumerate(effects):
        low, value, high = (100 * each for each in (effect.flips.low, effect.flips.value, effect.flips.high))
        axes.errorbar(value, row, xerr=[[max(0.0, value - low)], [max(0.0, high - value)]], fmt="o", capsize=3)
    axes.set_yticks(range(len(effects)), [effect.policy or "outcome of posts" for effect in effects])
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("posts with another outcome, per cent")
    return report.svg(figure)
