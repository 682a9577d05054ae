"""What `moderation policies certify` says: what the labels show, the certificate, or what is missing for one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from moderation.cli.options import out, table_console

if TYPE_CHECKING:
    from moderation.evaluation.certifying.certifying import Labelled, Outlook, Shown, Trial
    from moderation.evaluation.certifying.used import Recorded
    from moderation.policies import Certificate, Policy
    from moderation.settings import MediaSettings


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be certified, and with which samples."""

    policy: Policy
    folder: Path
    media: MediaSettings
    precision: Trial
    misses: Trial | None
    recall: Trial | None

    @property
    def all(self) -> tuple[Trial, ...]:
        """All that is tested."""
        return (self.precision, *(trial for trial in (self.misses, self.recall) if trial))

    @property
    def samples(self) -> tuple[Labelled, ...]:
        """All samples."""
        return tuple(trial.sample for trial in self.all)


def show(asked: Asked, certificate: Certificate | None, path: Path | None, recorded: Recorded | None) -> None:
    """Prints it for a person."""
    policy = asked.policy
    out.print(f"{policy.id}, version {policy.version}", style="bold", highlight=False, markup=False)
    for trial in asked.all:
        _print(f"{_what(asked, trial)}: {_claim(asked, trial)}, with {percent(trial.confidence)} confidence")
        table_console().print(_table(trial))
        for line in _missing(trial):
            _print(line)
    if certificate is None:
        _print("Not certified. No file was written.")
        return
    share, ends = percent(certificate.precision.at_least), f"{certificate.expires_at:%Y-%m-%d}"
    _print(f"Certified at {certificate.threshold}: at least {share} of the groups at or above it violate.")
    _print(f"Certificate {certificate.id}, until {ends}: {path}")
    for line in notes(asked, certificate):
        _print(line)
    if recorded and (recorded.written or recorded.left_out):
        left_out = f"; {recorded.left_out} posts fit no row" if recorded.left_out else ""
        _print(f"{recorded.written} labels are rows of the golden set now, used up by this certificate{left_out}.")


def notes(asked: Asked, certificate: Certificate) -> Iterator[str]:
    """What the policy's file must say for the certificate to hold, and what it does not say yet."""
    policy, thresholds = asked.policy, asked.policy.thresholds
    if certificate.threshold != thresholds.remove:
        yield (
            f"It does not hold for the policy as it is: `remove` is {thresholds.remove} there. Write `remove: "
            f"{certificate.threshold}`."
        )
    if certificate.misses and certificate.misses.review != thresholds.review:
        yield (
            f"Its misses are those below {certificate.misses.review}, and `review` is {thresholds.review} in the "
            f"policy. Write `review: {certificate.misses.review}`."
        )
    if certificate.recall and certificate.recall.threshold not in (thresholds.review, thresholds.remove):
        yield (
            f"Its recall is that at {certificate.recall.threshold}, which is neither `review` ({thresholds.review}) "
            f"nor `remove` ({thresholds.remove}) of the policy."
        )
    for trial in asked.all:
        if others := tested_before(trial):
            yield (
                f"{_what(asked, trial)}: {', '.join(others)} beside it tested the same score. The confidence is that "
                "of one test: who draws and tests until one passes has less."
            )
    if len(certificate.labellers) == 1:
        yield f"All labels are of one person, {certificate.labellers[0]}. A second person finds mistakes of the first."
    if not policy.certificate:
        yield "The policy removes posts without a certificate, too, until its file says `certificate: required`."


def tested_before(trial: Trial) -> list[str]:
    """The names of other samples beside that of a test, from the same region, that have labels for the same score."""
    from moderation.errors import ConfigError
    from moderation.evaluation.certifying import terms
    from moderation.evaluation.samples import labels, samples

    path, sample = trial.sample.path, trial.sample.settlement.sample
    found = []
    for other in sorted(path.parent.glob(f"*{samples.SUFFIX}")):
        if other.name == path.name or not terms.path_of(other).exists():
            continue
        try:
            drawn = samples.read(other)[0]
            labelled = any(sheet.labels for sheet in labels.sheets(other))
        except ConfigError:  # it is not what is asked for
            continue
        if labelled and (drawn.score_digest, drawn.region) == (sample.score_digest, sample.region):
            found.append(other.name)
    return found


def _what(asked: Asked, trial: Trial) -> str:
    return "Precision" if trial is asked.precision else "Misses" if trial is asked.misses else "Recall"


def _claim(asked: Asked, trial: Trial) -> str:
    share, source = percent(trial.share), trial.sample.settlement.sample.source
    if trial is asked.precision:
        return f"at least {share} of the groups at or above a threshold violate ({trial.design} design)"
    if trial is asked.misses:
        return f"at most {share} of the groups below `review` violate"
    return f"at least {share} of the violating groups of the pool {source} are at or above a threshold"


def _table(trial: Trial) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("threshold", "groups", "labels", "wrong", "to come", "shown"):
        table.add_column(name, justify="right")
    table.add_column("")
    for place, shown in enumerate(trial.levels):
        evidence = shown.evidence
        stopped = "failed" if evidence.further is None else "not yet"
        state = "certified" if place < trial.passes else stopped if place == trial.passes else "not tested"
        table.add_row(
            f"{shown.level.threshold}",
            f"{shown.level.population:,}",
            f"{evidence.n:,}",
            f"{evidence.wrong:,}",
            f"{evidence.missing:,}",
            bound_of(trial, shown) if place <= trial.passes else "",
            state,
        )
    return table


def bound_of(trial: Trial, shown: Shown) -> str:
    """What the labels show with the confidence of the test, in words."""
    wrong = Decimal(str(shown.evidence.bound))
    if trial.sample.settlement.sample.region == "allow":
        return f"at most {_rounded(wrong, ROUND_CEILING)}"
    return f"at least {_rounded(1 - wrong, ROUND_FLOOR)}"


def percent(share: float) -> str:
    """A share as it was given, in percent: never a stronger one. One digit at the least."""
    number = Decimal(str(share)) * 100
    return f"{number:.1f}%" if number == round(number, 1) else f"{number.normalize():f}%"


def _rounded(share: Decimal, to: str) -> str:
    """A bound in percent, rounded to the side that says less."""
    return f"{(share * 100).quantize(Decimal('0.01'), to)}%"


def _missing(trial: Trial) -> Iterator[str]:
    """How many labels are missing at the threshold where the test stopped."""
    from moderation.evaluation.certifying import certifying
    from moderation.evaluation.certifying.certification import Design

    outlook = certifying.outlook(trial)
    if outlook is None:
        return
    evidence, level = outlook.shown.evidence, outlook.shown.level
    at, region = f"At {level.threshold}", trial.sample.settlement.sample.region.value
    if trial.design is Design.SEQUENTIAL:
        yield from _sequential(outlook, at)
    elif outlook.further:
        each = {"allow": ", if each is allowed", "remove": ", if each violates"}.get(region, "")
        yield f"{at}: {_labels(outlook.further)} missing at the least{each}. To come: {evidence.missing:,}."
    else:
        certain = evidence.wrong - evidence.missing
        enough = f": with {certain:,} wrong it takes {outlook.in_all:,} labels" if outlook.in_all else ""
        yield f"{at}: this sample cannot show it{enough}. Draw another one, with another --seed."


def _sequential(outlook: Outlook, at: str) -> Iterator[str]:
    evidence, level = outlook.shown.evidence, outlook.shown.level
    if outlook.further is None:
        yield f"{at}: {level.population:,} groups are too few to show it, with {evidence.wrong:,} wrong so far."
        return
    if outlook.refuted:
        yield f"{at}: these labels show, with the same confidence, that fewer violate. Mend the policy."
        return
    larger = f", so draw a larger sample: {outlook.beyond:,} are beyond this one" if outlook.beyond else ""
    yield f"{at}: {_labels(outlook.further)} missing at the least, if each violates{larger}."
    if evidence.wrong:
        rest = f"about {outlook.expected:,} labels" if outlook.expected else "it is never shown"
        yield f"An estimate: if the rate goes on as it is, {rest}."


def _labels(count: int) -> str:
    return "1 label is" if count == 1 else f"{count:,} labels are"


def described(
    asked: Asked, certificate: Certificate | None, path: Path | None, recorded: Recorded | None
) -> dict[str, Any]:
    """The same as JSON."""
    return {
        "policy": asked.policy.id,
        "version": asked.policy.version,
        "certified": certificate is not None,
        "claims": [_as_json(asked, trial) for trial in asked.all],
        "certificate": certificate and {"id": certificate.id, "file": str(path), **certificate.model_dump(mode="json")},
        "notes": list(notes(asked, certificate)) if certificate else [],
        "rows": recorded.written if recorded else 0,
    }


def _as_json(asked: Asked, trial: Trial) -> dict[str, Any]:
    return {
        "claim": _what(asked, trial).lower(),
        "share": trial.share,
        "confidence": trial.confidence,
        "design": trial.design.value,
        "sample": str(trial.sample.path),
        "passes": trial.passes,
        "levels": [
            {
                "threshold": shown.level.threshold,
                "population": shown.level.population,
                "n": shown.evidence.n,
                "wrong": shown.evidence.wrong,
                "to_come": shown.evidence.missing,
                "bound": shown.evidence.bound if trial is asked.misses else 1 - shown.evidence.bound,
                "passed": shown.evidence.passed,
                "missing_at_least": shown.evidence.further,
            }
            for shown in trial.levels
        ],
        "missing": list(_missing(trial)),
    }


def _print(line: str) -> None:
    out.print(line, highlight=False, markup=False)
