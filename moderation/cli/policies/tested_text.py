"""A test of policies on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from moderation.cli.options import out, table_console

if TYPE_CHECKING:
    from moderation.evaluation.kept import Answers
    from moderation.evaluation.testing.figures import Case, ClauseFigures, Figures, Share
    from moderation.evaluation.testing.tested import Overlap, Result, Tried
    from moderation.policies import Policy
    from moderation.types import ModelInfo, Outcome

EXCERPT = 60  # characters of a post's text
BAR = 20  # characters
NOTE = (
    "Intervals are exact (Clopper-Pearson, 95 %), if these were drawn at random. People choose the posts of golden "
    "sets, so they are estimates. `moderation policies certify` shows what holds for traffic."
)


def show(info: ModelInfo, tried: Tried, without: Sequence[Policy], answers: Answers) -> None:
    """Prints a test. without: policies that have no golden set."""
    before = {result.policy.id: result for result in tried.before}
    for result in tried.results:
        _show(result, before.get(result.policy.id))
    if tried.overlap is not None:
        _overlap(tried.overlap)
    for policy in without:
        verdict = "its gate is not kept" if policy.gate else "not tested"
        _line(f"{policy.id}: {verdict}: there is no golden set: write {policy.id}.golden.jsonl beside it")
    if answers.found:
        _line(f"{answers.found} of {answers.found + answers.asked} answers are kept from before; --fresh asks again.")
    _line(NOTE)
    if info.caution:
        _line(f"{info.name}: {info.caution}")


def _line(text: str, style: str = "") -> None:
    out.print(text, style=style, highlight=False, markup=False)


def _show(result: Result, before: Result | None) -> None:
    figures = result.figures
    title = f"{result.policy.id}, version {result.policy.version}: {figures.wrong} of {figures.posts} posts wrong"
    _line(title, "bold")
    if result.left_out:
        _line(f"{result.left_out} posts of the split cert are kept for certificates, and not looked at")
    _levels(result)
    if figures.calibration is not None:
        auc = "-" if figures.auc is None else f"{figures.auc:.3f}"
        _line(f"AUC {auc}, calibration error {figures.calibration.error:.3f}, Brier {figures.calibration.brier:.3f}")
    _clauses(result.clauses)
    _slices(result.slices)
    _cases("missed", result.misses)
    _cases("false alarms", result.false_alarms)
    _cases("no answer", result.unanswered)
    if before is not None:
        _compared(result, before)
    for check in result.checks:
        _line(check.text, "green" if check.kept else "bold red")
    if not result.checks:
        _line("the policy sets no limit, as `gate: {wrong: 0}` would: wrong posts do not change the exit code")
    out.print()


def _levels(result: Result) -> None:
    from moderation.evaluation.testing.figures import LEVELS

    thresholds = result.policy.finding_thresholds
    table = _table(("threshold",), ("flagged", "precision", "", "recall", ""))
    for level in LEVELS:
        name = level.name.lower()
        value = getattr(thresholds, name)
        shares = (result.figures.precision(level), result.figures.recall(level))
        cells = [cell for share in shares for cell in (_rate(share), _interval(share))]
        table.add_row(f"{name} {value:g}", f"{result.figures.flagged(level)} of {result.figures.posts}", *cells)
    table_console().print(table)


def _clauses(clauses: Sequence[ClauseFigures]) -> None:
    from moderation.evaluation.testing.figures import LEVELS

    table = _table(("clause", ""), ("posts", "at review", "at remove"))
    for clause in clauses:
        shares = [clause.flagged[level] for level in LEVELS]
        many = shares[0].trials
        cells = [str(share.hits) if many else "-" for share in shares]
        table.add_row(clause.id, "violates" if clause.violates else "allowed", str(many), *cells)
    table_console().print(table)


def _slices(slices: dict[str, Figures]) -> None:
    from moderation.evaluation.testing.figures import LEVELS

    if not slices:
        return
    names = [f"{what} at {level.name.lower()}" for level in LEVELS for what in ("precision", "recall")]
    table = _table(("slice",), ("posts", "wrong", *names, "AUC", "calibration error"))
    for name, figures in slices.items():
        shares = [share for level in LEVELS for share in (figures.precision(level), figures.recall(level))]
        auc = "-" if figures.auc is None else f"{figures.auc:.3f}"
        error = "-" if figures.calibration is None else f"{figures.calibration.error:.3f}"
        cells = [f"{_rate(share)} of {share.trials}" if share.trials else "-" for share in shares]
        table.add_row(printable(name), str(figures.posts), str(figures.wrong), *cells, auc, error)
    table_console().print(table)


def _cases(title: str, cases: Sequence[Case]) -> None:
    if not cases:
        return
    _line(f"{title}:")
    for case in cases:
        _line(f"  {named(case)}")


def named(case: Case) -> str:
    """A case in a line: its name, its label, what the policy says, and the beginning of its text."""
    labelled, finding = case.labelled, case.finding
    said = case.outcome.name
    if finding is None:
        said = "the policy does not apply"
    elif case.score is not None:
        said += f" at {case.score.probability:.3f}"
    if finding is not None and finding.reason is not None:
        said += f" ({finding.reason}{f' at {finding.path}' if finding.path else ''})"
    images = len(labelled.post.images)
    shown = f"{images} picture{'s' if images > 1 else ''}" if images else ""
    return ", ".join(
        part
        for part in (f"{printable(case.name)}, label {case.label}: {said}", shown, _excerpt(labelled.post.text))
        if part
    )


def _excerpt(text: str) -> str:
    text = printable(" ".join(text.split()))
    return f'"{text[:EXCERPT]}{"..." if len(text) > EXCERPT else ""}"' if text else ""


def printable(text: str) -> str:
    """The text without what could move the cursor of a terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _compared(result: Result, before: Result) -> None:
    """What other thresholds change: in posts, and as a curve."""
    from moderation.evaluation.testing.figures import LEVELS, STEPS

    for level in LEVELS:
        _moved(level, before, result)
    table = _table(("what if: threshold", ""), ("flagged", "more than now at review", "precision", "recall"))
    now = before.figures.at(before.policy.thresholds.review).flagged
    for point in (result.figures.at(step) for step in STEPS):
        bar = "#" * round(BAR * point.flagged / point.posts) if point.posts else ""
        more = f"{point.flagged - now:+d}"
        cells = [f"{point.flagged} of {point.posts}", more, _rate(point.precision), _rate(point.recall)]
        table.add_row(f"{point.threshold:.2f}", bar, *cells)
    table_console().print(table)


def _moved(level: Outcome, before: Result, result: Result) -> None:
    name = level.name.lower()
    old, new = (getattr(one.policy.thresholds, name) for one in (before, result))
    if old == new:
        return
    pairs = [(was.reaches(level), case.reaches(level), case) for was, case in _pairs(before, result)]
    more = [case for was, now, case in pairs if now and not was]
    fewer = [case for was, now, case in pairs if was and not now]
    _line(f"{name} at {new:g} in place of {old:g}: {_many(more)} more flagged, {_many(fewer)} fewer")
    for sign, cases in (("+", more), ("-", fewer)):
        for case in cases:
            _line(f"  {sign} {named(case)}")


def _pairs(before: Result, result: Result) -> Iterable[tuple[Case, Case]]:
    return zip(before.cases, result.cases, strict=True)


def _many(cases: Sequence[Case]) -> str:
    violating = sum(case.labelled.violates for case in cases)
    return f"{len(cases)} ({violating} violating)" if cases else "0"


def _overlap(overlap: Overlap) -> None:
    _line(f"posts that two policies flag at review, of {overlap.posts} posts of all golden sets", "bold")
    table = _table(("",), overlap.ids)
    for one in overlap.ids:
        table.add_row(one, *(str(overlap.both[one, other]) for other in overlap.ids))
    table_console().print(table)
    out.print()


def _table(left: Iterable[str], right: Iterable[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _rate(share: Share) -> str:
    return "-" if share.rate is None else f"{share.rate:.1%}"


def _interval(share: Share) -> str:
    ends = share.interval
    return f"({ends.low:.1%} to {ends.high:.1%})"
