"""A test of policies as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moderation.cli.judging import model_members

if TYPE_CHECKING:
    from moderation.evaluation.kept import Answers
    from moderation.evaluation.testing.figures import Case, ClauseFigures, Figures, Share
    from moderation.evaluation.testing.tested import Result, Tried
    from moderation.types import ModelInfo


def described(info: ModelInfo, tried: Tried, without: Sequence[str], answers: Answers) -> dict[str, Any]:
    """All figures. without: ids of policies that have no golden set."""
    from moderation.evaluation.binomial import CONFIDENCE

    before = {result.policy.id: result for result in tried.before}
    overlap = tried.overlap
    return {
        "model": model_members(info),
        "intervals": {"method": "Clopper-Pearson", "confidence": CONFIDENCE, "if": "drawn at random"},
        "policies": [_policy(result, before.get(result.policy.id), info.digest) for result in tried.results],
        "without_golden_set": list(without),
        "answers": {"kept": answers.found, "asked": answers.asked},
        "overlap": overlap
        and {
            "posts": overlap.posts,
            "both": {one: {other: overlap.both[one, other] for other in overlap.ids} for one in overlap.ids},
        },
    }


def _policy(result: Result, before: Result | None, model_digest: str) -> dict[str, Any]:
    from moderation.evaluation.testing.figures import STEPS
    from moderation.policies import score_digest

    thresholds = result.policy.thresholds
    return {
        "id": result.policy.id,
        "version": result.policy.version,
        "score_digest": score_digest(result.policy, model_digest),
        "golden": str(result.golden.path),
        "left_out": result.left_out,
        "thresholds": {"review": thresholds.review, "remove": thresholds.remove},
        **_figures(result.figures),
        "clauses": [_clause(clause) for clause in result.clauses],
        "slices": {name: _figures(figures) for name, figures in result.slices.items()},
        "misses": [_case(case) for case in result.misses],
        "false_alarms": [_case(case) for case in result.false_alarms],
        "unanswered": [_case(case) for case in result.unanswered],
        "gate": [
            {"key": check.key, "limit": check.limit, "value": check.value, "kept": check.kept}
            for check in result.checks
        ],
        "passed": result.passed,
        "curve": [
            {
                "threshold": point.threshold,
                "flagged": point.flagged,
                "posts": point.posts,
                "precision": _share(point.precision),
                "recall": _share(point.recall),
            }
            for point in (result.figures.at(step) for step in STEPS)
        ],
        "before": before
        and {
            "thresholds": {"review": before.policy.thresholds.review, "remove": before.policy.thresholds.remove},
            **_figures(before.figures),
        },
        "cases": [_case(case) for case in result.cases],
    }


def _figures(figures: Figures) -> dict[str, Any]:
    from moderation.evaluation.testing.figures import LEVELS

    calibration = figures.calibration
    return {
        "posts": figures.posts,
        "violating": figures.violating,
        "wrong": figures.wrong,
        **{
            level.name.lower(): {
                "flagged": figures.flagged(level),
                "precision": _share(figures.precision(level)),
                "recall": _share(figures.recall(level)),
            }
            for level in LEVELS
        },
        "auc": figures.auc,
        "calibration": calibration
        and {
            "error": calibration.error,
            "brier": calibration.brier,
            "bins": [
                {"low": bin.low, "high": bin.high, "mean": bin.mean, "violating": _share(bin.violating)}
                for bin in calibration.bins
            ],
        },
    }


def _share(share: Share) -> dict[str, Any]:
    ends = share.interval
    return {"hits": share.hits, "trials": share.trials, "rate": share.rate, "interval": [ends.low, ends.high]}


def _clause(clause: ClauseFigures) -> dict[str, Any]:
    flagged = {level.name.lower(): _share(share) for level, share in clause.flagged.items()}
    return {"id": clause.id, "violates": clause.violates, "flagged": flagged}


def _case(case: Case) -> dict[str, Any]:
    labelled, finding = case.labelled, case.finding
    return {
        "id": labelled.post.id,
        "line": labelled.line,
        "violates": labelled.violates,
        "clause": labelled.clause or None,
        "applies": finding is not None,
        "outcome": case.outcome.name,
        "probability": case.score.probability if case.score else None,
        "reason": finding.reason if finding else None,
    }
