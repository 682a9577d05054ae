"""The self-check of the model: two reference posts whose scores are known since the start.

After an exception, a model may return wrong rows: those of the item before, or of the step before. The rows themselves
look right. So both posts are scored after each step that failed, and at intervals, and compared with their scores at
the start.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from moderation.errors import DeviceError, ModerationError
from moderation.models.checked import CheckedModel, Failure, Item, Scores
from moderation.types import Content, Question

# The posts differ for any model. The word after each is for the fake model, which reads nothing else.
REFERENCE_POSTS = (
    Content("Good morning, everybody! violates:greeting", (), ""),
    Content("Buy our cheap watches now! violates:advertisement", (), ""),
)
QUESTIONS = (
    Question("greeting", "Is it a greeting?"),
    Question("advertisement", "Is it an advertisement?"),
)
ATTEMPTS = 2  # at scoring both: a failure may be temporary, a disagreement is not
# How much a margin may differ from the start: a share of the distance between both posts, within two bounds. In
# bfloat16 the logits of one batch on one device may differ by one step of their last digit, an eighth.
SHARE, MIN_TOLERANCE, MAX_TOLERANCE = 0.25, 0.02, 0.5

Margins = Sequence[Sequence[float]]  # item x question

log = structlog.get_logger()


class SelfCheck:
    """Compares the scores of the reference posts with those at the start. Belongs to the model's thread."""

    def __init__(self, model: CheckedModel) -> None:
        self._model = model
        self._encoded_posts: Sequence[Sequence[Item]] = ()
        self._expected: Margins = ()
        self._tolerance = 0.0

    def start(self) -> None:
        """Records the scores of the reference posts.

        Raises DeviceError if the scores depend on the order in the batch.
        """
        self._expected = ()
        self.run()
        self._compare(self._margins(swapped=True))

    def run(self) -> None:
        """Raises DeviceError if the model fails on the reference posts, or scores them otherwise than at the start."""
        margins = self._margins()
        if self._expected:
            self._compare(margins)
        else:
            self._expect(margins)

    def _margins(self, swapped: bool = False) -> Margins:
        """Returns the margins of the windows of both posts, in order. `swapped`: the second comes first."""
        first, second = self._encoded()
        items = [*second, *first] if swapped else [*first, *second]
        for _ in range(ATTEMPTS):
            if scores := self._scores(items):
                margins = [[score.margin for score in row] for row in scores]
                return [*margins[len(second) :], *margins[: len(second)]] if swapped else margins
        raise DeviceError("the model has failed its self-check")

    def _scores(self, items: Sequence[Item]) -> Scores:
        """Returns the scores; empty after a failure. Scores items one by one if the device lacks memory for all."""
        scores = self._model.score(items)
        if scores is Failure.TOO_LARGE and len(items) > 1:
            each = [self._scores([item]) for item in items]
            return [row for rows in each for row in rows] if all(each) else ()
        return () if isinstance(scores, Failure) else scores

    def _encoded(self) -> Sequence[Sequence[Item]]:
        """Returns the encoded reference posts.

        They are encoded once, on this thread, so that a check never waits for posts.
        """
        if not self._encoded_posts:
            try:
                self._encoded_posts = [self._model.encode(post, QUESTIONS) for post in REFERENCE_POSTS]
            except DeviceError:
                raise
            except ModerationError:
                raise DeviceError("the model cannot encode the reference posts of its self-check") from None
        return self._encoded_posts

    def _expect(self, margins: Margins) -> None:
        first, second = (margins[: len(self._encoded_posts[0])], margins[len(self._encoded_posts[0]) :])
        apart = _distance(first[:1], second[:1])
        self._tolerance = min(MAX_TOLERANCE, max(MIN_TOLERANCE, SHARE * apart))
        self._expected = margins
        if apart <= 2 * self._tolerance:
            log.warning("self_check_scores_alike", apart=round(apart, 4), tolerance=round(self._tolerance, 4))

    def _compare(self, margins: Margins) -> None:
        if (difference := _distance(margins, self._expected)) > self._tolerance:
            log.error("self_check_failed", difference=round(difference, 4), tolerance=round(self._tolerance, 4))
            raise DeviceError("the model scores the reference posts of its self-check otherwise than at start")


def _distance(first: Margins, second: Margins) -> float:
    """Returns the largest difference between two margins."""
    rows = zip(first, second, strict=True)
    return max((abs(a - b) for row, other in rows for a, b in zip(row, other, strict=True)), default=0.0)
