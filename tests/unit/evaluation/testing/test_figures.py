"""Figures of a policy on labelled posts: each against its definition, on cases that a person can count."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from moderation.evaluation.posts.golden import Labelled
from moderation.evaluation.testing.figures import Case, Figures, Share, by_clause, by_slice, worst
from moderation.policies import finding_of
from moderation.types import Answer, Image, Outcome, Problem, Reason, Score, YesNo
from tests.support.builders import a_policy, a_post

POLICY = a_policy(
    violates=[{"id": "L1", "text": "mentions a lake"}, {"id": "L2", "text": "shows a lake"}],
    allows=[{"id": "L0", "text": "rivers"}],
)
LINES = iter(range(1, 1_000_000))


def a_score(probability: float, mass: float | None = 0.99) -> Score:
    return Score(probability, math.log(probability / (1 - probability)), mass)


def a_case(violates: bool, *answers: Answer, problems: tuple[Problem, ...] = (), **fields: Any) -> Case:
    line = next(LINES)
    labelled: dict[str, Any] = {"clause": "", "source": "seed", "split": "dev", "slices": {}} | fields
    post = labelled.pop("post", a_post(f"line-{line}"))
    finding = finding_of(POLICY, answers, problems=problems)
    return Case(Labelled(line=line, post=post, violates=violates, **labelled), finding)


def cases(*pairs: tuple[bool, float]) -> tuple[Case, ...]:
    return tuple(a_case(violates, a_score(probability)) for violates, probability in pairs)


# Above 0.9: two violating, one not. From 0.5: four violating, two not. Below: one violating, one not.
SOME = cases(
    (True, 0.97), (True, 0.92), (False, 0.91), (True, 0.9 - 1e-9), (True, 0.5), (False, 0.7), (True, 0.2), (False, 0.1)
)  # fmt: skip


def test_precision_and_recall_at_both_thresholds() -> None:
    figures = Figures(SOME)
    assert (figures.posts, figures.violating, figures.wrong) == (8, 5, 3)
    assert (figures.flagged(Outcome.REMOVE), figures.flagged(Outcome.REVIEW)) == (3, 6)
    assert figures.precision(Outcome.REMOVE) == Share(2, 3)
    assert figures.recall(Outcome.REMOVE) == Share(2, 5)
    assert figures.precision(Outcome.REVIEW) == Share(4, 6)
    assert figures.recall(Outcome.REVIEW) == Share(4, 5)


def test_bounds_are_exact_and_of_nothing_say_nothing() -> None:
    share = Figures(cases(*[(True, 0.95)] * 10)).precision(Outcome.REMOVE)
    assert share.rate == 1.0
    assert round(share.interval.low, 4) == 0.6915
    nothing = Figures(()).precision(Outcome.REMOVE)
    assert nothing.rate is None
    assert (nothing.interval.low, nothing.interval.high) == (0.0, 1.0)


def test_auc_is_the_chance_that_a_violating_post_scores_above_an_allowed_one() -> None:
    seed = random.randrange(1 << 30)
    draw = random.Random(seed)
    # Few values, so that many are equal.
    some = cases(*((draw.random() < 0.4, draw.choice([0.1, 0.3, 0.5, 0.8])) for _ in range(60)))
    figures = Figures(some)
    pairs = [
        0.5 if one.probability == other.probability else float(one.probability > other.probability)
        for one, yes in figures.scored
        for other, no in figures.scored
        if yes and not no
    ]
    assert figures.auc == pytest.approx(sum(pairs) / len(pairs)), seed


@pytest.mark.parametrize("violates", [True, False])
def test_with_one_label_alone_there_is_no_auc(violates: bool) -> None:
    assert Figures(cases((violates, 0.4), (violates, 0.6))).auc is None


def test_calibration_by_hand() -> None:
    calibration = Figures(cases((True, 0.95), (True, 0.91), (False, 0.97), (False, 0.25), (True, 0.2))).calibration
    assert calibration is not None
    low, high = calibration.bins
    assert (low.low, low.high, low.violating) == (0.2, 0.3, Share(1, 2))
    assert (high.low, high.high, high.violating) == (0.9, 1.0, Share(2, 3))
    assert low.mean == pytest.approx(0.225)
    assert high.mean == pytest.approx(0.94333, abs=1e-5)
    assert calibration.error == pytest.approx((abs(0.45 - 1) + abs(2.83 - 2)) / 5)
    assert calibration.brier == pytest.approx((0.05**2 + 0.09**2 + 0.97**2 + 0.25**2 + 0.8**2) / 5)


def test_probabilities_of_0_and_1_have_a_bin() -> None:
    sure = (a_case(True, Score(1.0, 90.0, 0.9)), a_case(False, Score(0.0, -90.0, 0.9)))
    calibration = Figures(sure).calibration
    assert calibration is not None
    assert [(bin.low, bin.high) for bin in calibration.bins] == [(0.0, 0.1), (0.9, 1.0)]
    assert calibration.error == calibration.brier == 0.0


def test_the_curve_agrees_with_counting_at_each_threshold() -> None:
    figures = Figures(SOME)
    assert figures.at(0.5).flagged == figures.flagged(Outcome.REVIEW)
    assert figures.at(0.9).precision == figures.precision(Outcome.REMOVE)
    curve = figures.curve()
    assert [point.threshold for point in curve] == sorted(
        {0.0, 1.0, *(score.probability for score, _ in figures.scored)}
    )
    assert [point.flagged for point in curve] == [8, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    twice = Figures((*SOME, *SOME))
    assert twice.curve() == tuple(twice.at(point.threshold) for point in curve)


def test_without_scores_a_curve_flags_nothing() -> None:
    figures = Figures((a_case(True, YesNo(True)),))
    assert [(point.threshold, point.posts, point.flagged) for point in figures.curve()] == [(0.0, 0, 0), (1.0, 0, 0)]


def test_without_an_answer_a_post_is_wrong_and_flags_nothing() -> None:
    silent = a_case(True, Reason.MODEL_FAILED)
    mute = a_case(False, a_score(0.99, mass=0.01))
    figures = Figures((silent, mute))
    assert [case.outcome for case in figures.cases] == [Outcome.REVIEW, Outcome.REVIEW]  # by on_error
    assert figures.flagged(Outcome.REVIEW) == 0
    assert figures.recall(Outcome.REVIEW) == Share(0, 1)
    assert figures.wrong == 2
    assert not silent.missed
    assert not mute.false_alarm
    assert figures.scored == ()
    assert figures.calibration is None


def test_an_answer_without_a_probability_counts_at_review_and_in_no_curve() -> None:
    figures = Figures((a_case(True, YesNo(True)), a_case(False, YesNo(False))))
    assert figures.wrong == 0
    assert figures.recall(Outcome.REVIEW) == Share(1, 1)
    assert figures.flagged(Outcome.REMOVE) == 0
    assert figures.scored == ()


def test_a_part_that_was_not_read_flags_a_post_as_it_does_in_a_worker() -> None:
    torn = a_case(False, a_score(0.1), problems=(Problem(Reason.IMAGE_CORRUPT, "images[0]"),))
    assert torn.answered
    assert torn.false_alarm


def test_a_policy_that_does_not_apply_allows_the_post() -> None:
    labelled = a_case(True, a_score(0.9)).labelled
    outside = Case(labelled, None)
    assert outside.missed
    assert outside.distance == 1.0
    assert Figures((outside,)).recall(Outcome.REVIEW) == Share(0, 1)


def test_each_clause_has_its_posts_also_where_there_are_none() -> None:
    some = (
        a_case(True, a_score(0.95), clause="L1"),
        a_case(True, a_score(0.6), clause="L1"),
        a_case(True, a_score(0.1), clause="L1"),
        a_case(False, a_score(0.7), clause="L0"),
        a_case(True, a_score(0.95)),
    )
    found = {clause.id: (clause.violates, *clause.flagged.values()) for clause in by_clause(POLICY, some)}
    assert found == {
        "L1": (True, Share(2, 3), Share(1, 3)),
        "L2": (True, Share(0, 0), Share(0, 0)),
        "L0": (False, Share(1, 1), Share(0, 1)),
    }


def test_slices_are_those_of_the_set_and_of_the_post() -> None:
    german = a_post("g", language="de", surface="comment")
    some = (
        a_case(True, a_score(0.95), post=german, slices={"campaign": "spring"}),
        a_case(True, a_score(0.1), post=german, source="appeal"),
        a_case(False, a_score(0.1), post=a_post("p", text="", images=(Image(data=b"x"),))),
    )
    found = {name: (figures.posts, figures.wrong) for name, figures in by_slice(some).items()}
    assert found == {
        "campaign: spring": (1, 0),
        "language: de": (2, 1),
        "media: image": (1, 0),
        "media: text": (2, 1),
        "source: appeal": (1, 1),
        "source: seed": (2, 0),
        "surface: comment": (2, 1),
    }
    assert by_slice(some)["language: de"].recall(Outcome.REVIEW) == Share(1, 2)


def test_a_slice_of_the_set_takes_the_place_of_the_posts_own() -> None:
    german = a_case(True, a_score(0.9), post=a_post("g", language="de"), slices={"language": "dialect"})
    assert "language: dialect" in by_slice((german, a_case(True, a_score(0.9))))


def test_the_worst_come_first() -> None:
    near, far, alarm = cases((True, 0.49), (True, 0.01), (False, 0.99))
    assert worst((near, alarm, far), lambda case: case.missed) == (far, near)
