"""`moderation policies certify`: a certificate from a labelled sample, or what is missing for one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from moderation import settings
from moderation.cli.options import AsJson, out, table_console
from moderation.cli.policies import certified
from moderation.cli.policies import sample as drawing
from moderation.cli.policies.certified import Asked
from moderation.errors import ConfigError

if TYPE_CHECKING:
    from moderation.evaluation.certifying.certifying import Labelled, Shown, Trial
    from moderation.evaluation.certifying.terms import Terms
    from moderation.evaluation.certifying.used import Recorded
    from moderation.policies import Certificate, Policy

PREVALENCES = (0.05, 0.01, 0.001)


def certify(
    policy: Annotated[str, typer.Argument(help="id of the policy, or its file")],
    sample: Annotated[
        Path | None, typer.Option(help="labelled sample at or above `remove`; default ID.sample.jsonl")
    ] = None,
    *,
    precision: Annotated[float, typer.Option(help="of the groups at or above the threshold, so many violate")] = 0.95,
    confidence: Annotated[float, typer.Option(help="of each claim by itself")] = 0.95,
    design: Annotated[
        Literal["sequential", "fixed", "finite"],
        typer.Option(help="sequential: may be looked at after each label; fixed and finite: n is fixed before"),
    ] = "sequential",
    threshold: Annotated[
        float | None, typer.Option(help="of a grid: which certified threshold; default the loosest")
    ] = None,
    misses: Annotated[
        Path | None, typer.Option(help="labelled sample below `review`: certifies the misses, too")
    ] = None,
    at_most: Annotated[float, typer.Option(help="of the groups in --misses, so many violate")] = 0.01,
    pool: Annotated[
        Path | None, typer.Option(help="labelled sample of a named pool: certifies recall on it, too")
    ] = None,
    recall: Annotated[
        float | None, typer.Option(help="of violating groups, so many are flagged; without --pool: what it would cost")
    ] = None,
    prevalence: Annotated[float | None, typer.Option(help="share of all posts that violate, for that cost")] = None,
    days: Annotated[int, typer.Option(min=1, help="after the draw for which the certificate holds")] = 90,
    rows: Annotated[bool, typer.Option(help="put the labelled posts into the golden set, as used up")] = True,
    policies: Annotated[Path | None, typer.Option(help="folder of the policy; default MODERATION_POLICIES")] = None,
    as_json: AsJson = False,
) -> None:
    """Certify a policy's threshold by a labelled sample. Exits with 1 and says what is missing where that fails."""
    from moderation.evaluation.certifying.certification import Design

    shares: dict[str, float | None] = {"precision": precision, "confidence": confidence, "at-most": at_most}
    _check_shares(shares | {"recall": recall, "prevalence": prevalence})
    loaded = settings.load()
    folder = Path(policy).parent if policy.endswith((".yaml", ".yml")) else policies or loaded.policies
    found = drawing.named(policy, folder)
    if recall is not None and pool is None:
        _say_cost(recall, confidence, prevalence, as_json=as_json)
        return
    kind = Design(design)
    asked = Asked(
        found,
        folder,
        loaded.media,
        _precision(found, sample or Path(f"{found.id}.sample.jsonl"), precision, confidence, kind),
        _misses(found, misses, at_most, confidence) if misses else None,
        _recall(found, pool, 0.9 if recall is None else recall, confidence) if pool else None,
    )
    if not all(trial.passes for trial in asked.all):
        _say(asked, None, None, None, as_json=as_json)
        sys.exit(1)
    from moderation.evaluation.certifying import certifying

    shown = certifying.chosen(asked.precision, threshold)
    certificate, path, recorded = _issued(asked, shown, days, keep_rows=rows)
    _say(asked, certificate, path, recorded, as_json=as_json)


def _check_shares(shares: dict[str, float | None]) -> None:
    for name, share in shares.items():
        if share is not None and not 0 < share < 1:
            raise ConfigError(f"--{name} {share:g}: must lie between 0 and 1, as in 0.95")
    confidence = shares["confidence"]
    if confidence is not None and confidence < 0.5:
        raise ConfigError(f"--confidence {confidence:g}: a certificate needs 0.5 at least: write 0.95 for 95 %")


def _labelled(policy: Policy, path: Path, region: Any) -> Labelled:
    """A sample of the policy with its labels. Raises ConfigError."""
    from moderation.evaluation.certifying import certifying
    from moderation.evaluation.samples import labels

    if not path.is_file():
        raise ConfigError(
            f"{path}: there is no such sample: draw one by `moderation policies sample {policy.id} --region {region}`, "
            "label it by `moderation policies label`, or name its file"
        )
    sample = certifying.Labelled(path, labels.settled(path, policy))
    certifying.check(policy, sample, region)
    return sample


def _precision(policy: Policy, path: Path, at_least: float, confidence: float, design: Any) -> Trial:
    from moderation.evaluation.certifying import certifying, terms
    from moderation.evaluation.samples.samples import Region

    sample = _labelled(policy, path, Region.REMOVE)
    several = len(sample.settlement.sample.levels) > 1
    _keep(sample, terms.Terms(design=design, confidence=confidence, share=at_least if several else None), chosen=True)
    return certifying.precision(sample, at_least, confidence, design)


def _misses(policy: Policy, path: Path, at_most: float, confidence: float) -> Trial:
    from moderation.evaluation.certifying import certifying, terms
    from moderation.evaluation.certifying.certification import Design
    from moderation.evaluation.samples.samples import Region

    sample = _labelled(policy, path, Region.ALLOW)
    _keep(sample, terms.Terms(design=Design.FIXED, confidence=confidence))
    return certifying.misses(sample, at_most, confidence)


def _recall(policy: Policy, path: Path, at_least: float, confidence: float) -> Trial:
    from moderation.evaluation.certifying import certifying, terms
    from moderation.evaluation.certifying.certification import Design
    from moderation.evaluation.samples.samples import Region

    sample = _labelled(policy, path, Region.POOL)
    several = len(sample.settlement.sample.levels) > 1
    _keep(sample, terms.Terms(design=Design.FIXED, confidence=confidence, share=at_least if several else None))
    return certifying.recall(sample, at_least, confidence)


def _keep(sample: Labelled, fixed: Terms, *, chosen: bool = False) -> None:
    """Holds the test to the terms that were fixed before the sample had a label. Raises ConfigError."""
    from moderation.evaluation.certifying import terms
    from moderation.evaluation.samples import labels

    labelled = any(sheet.labels for sheet in labels.sheets(sample.path))
    terms.keep(sample.path, fixed, labelled=labelled, chosen=chosen)


def _issued(asked: Asked, shown: Shown, days: int, *, keep_rows: bool) -> tuple[Certificate, Path, Recorded | None]:
    """Writes the certificate, then the rows that it uses up. What stands already of both stays as it is."""
    from moderation.evaluation.certifying import certifying, used
    from moderation.evaluation.files import replaced
    from moderation.policies import certificates

    path = asked.folder / f"{asked.policy.id}{certificates.SUFFIX}"
    golden_path = used.path_of(asked.policy, asked.folder)
    golden_set = used.read(golden_path, asked.policy, asked.media)
    issue = certifying.Issue(asked.policy, golden_set.digest if golden_set else "", datetime.now(UTC), days)
    others = [trial for trial in (asked.misses, asked.recall) if trial]
    certificate = certifying.certificate(issue, shown, asked.precision, *others)
    before = certificates.read(path) if path.exists() else None
    if before and certifying.is_same(before, certificate):
        certificate = before
    used.check(golden_set, asked.samples, certificate.id)
    if before and before is not certificate and before.rows_digest == certificate.rows_digest:
        raise ConfigError(
            f"{path}: rows_digest: this certificate has used these labels, and a label counts for one certificate: "
            "draw another sample, with another --seed"
        )
    if certificate is not before:
        replaced(path, certificates.written(certificate).encode())
    if not keep_rows:
        return certificate, path, None
    return certificate, path, used.record(golden_path, certificate, asked.samples, asked.policy, asked.media)


def _say(
    asked: Asked, certificate: Certificate | None, path: Path | None, recorded: Recorded | None, *, as_json: bool
) -> None:
    if as_json:
        typer.echo(json.dumps(certified.described(asked, certificate, path, recorded), indent=1))
    else:
        certified.show(asked, certificate, path, recorded)


def _say_cost(recall: float, confidence: float, prevalence: float | None, *, as_json: bool) -> None:
    """What recall on all traffic would cost. No sample of it is taken."""
    from moderation.evaluation.certifying.certification import recall_cost

    rates: Sequence[float] = (prevalence,) if prevalence is not None else PREVALENCES
    costs = [{"prevalence": rate, "labels": recall_cost(recall, confidence, rate)} for rate in rates]
    if as_json:
        typer.echo(json.dumps({"recall": recall, "confidence": confidence, "costs": costs}, indent=1))
        return
    wanted, sure = certified.percent(recall), certified.percent(confidence)
    out.print(
        f"Recall of {wanted} on all traffic is not certified. With {sure} confidence it takes so many "
        "labels of posts below `review`, at the least, without a violation among them:",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    for name in ("share of posts that violate", "labels"):
        table.add_column(name, justify="right")
    for cost in costs:
        table.add_row(f"{cost['prevalence']:.3%}", f"{cost['labels']:,}")
    table_console().print(table)
    out.print("A pool of posts with its own share of violations costs less: name a labelled sample of it by --pool.")
