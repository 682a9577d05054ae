"""Two posts of the service's own, whose scores are known since the start: they tell a sick model from a sick post.

A model may raise once and from then on return wrong rows: those of the item before, or of the step before. Nothing in
a row says so. So after a step that failed, and now and then without one, both probes are scored side by side and
compared with what they got at start.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from moderation.errors import DeviceError, ModerationError
from moderation.models.checked import CheckedModel, Failure, Item, Scores
from moderation.types import Content, Question

# Unlike one another for any model; the word behind each is for the double, which knows no others.
PROBES = (
    Content("Good morning, everybody! violates:greeting", (), ""),
    Content("Buy our cheap watches now! violates:advertisement", (), ""),
)
QUESTIONS = (
    Question("greeting", "Is it a greeting?"),
    Question("advertisement", "Is it an advertisement?"),
)
ATTEMPTS = 2  # of a self-check that fails and does not disagree: a failure may pass
# By how much a margin may differ from the start, as a share of what lies between both probes, and at least and at most:
# in bfloat16 the logits of one batch on one device may differ by a step of their last digit, an eighth.
SHARE, LEAST, MOST = 0.25, 0.02, 0.5

Margins = Sequence[Sequence[float]]  # item x question

log = structlog.get_logger()


class SelfCheck:
    """Belongs to the model's thread."""

    def __init__(self, model: CheckedModel) -> None:
        self._model = model
        self._probes: Sequence[Sequence[Item]] = ()
        self._expected: Margins = ()
        self._tolerance = 0.0

    def start(self) -> None:
        """Learns what the probes get. Raises DeviceError when that depends on their places in the batch."""
        self._expected = ()
        self.run()
        self._compare(self._margins(turned=True))

    def run(self) -> None:
        """Raises DeviceError when the model fails on the probes, or scores them otherwise than at start."""
        margins = self._margins()
        if self._expected:
            self._compare(margins)
        else:
            self._expect(margins)

    def _margins(self, turned: bool = False) -> Margins:
        """Of the windows of both probes, in their order. `turned`: the second probe stands first in the batch."""
        first, second = self._encoded()
        items = [*second, *first] if turned else [*first, *second]
        for _ in range(ATTEMPTS):
            if scores := self._scores(items):
                margins = [[score.margin for score in row] for row in scores]
                return [*margins[len(second) :], *margins[: len(second)]] if turned else margins
        raise DeviceError("the model has failed its self-check")

    def _scores(self, items: Sequence[Item]) -> Scores:
        """None for a failure; one by one where there is no memory for all, since posts may go on like this, too."""
        scores = self._model.score(items)
        if scores is Failure.TOO_LARGE and len(items) > 1:
            each = [self._scores([item]) for item in items]
            return [row for rows in each for row in rows] if all(each) else ()
        return () if isinstance(scores, Failure) else scores

    def _encoded(self) -> Sequence[Sequence[Item]]:
        """Encoded once, here: a self-check never waits for posts that are being encoded."""
        if not self._probes:
            try:
                self._probes = [self._model.encode(probe, QUESTIONS) for probe in PROBES]
            except DeviceError:
                raise
            except ModerationError:
                raise DeviceError("the model cannot encode the posts of its self-check") from None
        return self._probes

    def _expect(self, margins: Margins) -> None:
        first, second = (margins[: len(self._probes[0])], margins[len(self._probes[0]) :])
        apart = _distance(first[:1], second[:1])
        self._tolerance = min(MOST, max(LEAST, SHARE * apart))
        self._expected = margins
        if apart <= 2 * self._tolerance:
            log.warning("self_check_scores_alike", apart=round(apart, 4), tolerance=round(self._tolerance, 4))

    def _compare(self, margins: Margins) -> None:
        if (off := _distance(margins, self._expected)) > self._tolerance:
            log.error("self_check_failed", off=round(off, 4), tolerance=round(self._tolerance, 4))
            raise DeviceError("the model scores the posts of its self-check otherwise than at start")


def _distance(some: Margins, others: Margins) -> float:
    """The largest difference of a margin."""
    pairs = zip(some, others, strict=True)
    return max((abs(a - b) for row, other in pairs for a, b in zip(row, other, strict=True)), default=0.0)
