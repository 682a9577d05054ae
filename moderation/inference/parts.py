"""Scores a post in parts where the model fails on it as a whole: no picture may hide the text, and no text a picture.

The attempts are few, and an error of the device ends them. All have the digest of the post, so that FailedPosts counts
them as one post.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moderation.errors import PostError
from moderation.inference.scoring import Scored, Scorer
from moderation.models.contract import picture_path
from moderation.types import Answer, Arrival, Content, Problem, Question, Reason

MAX_IMAGES = 8  # that are tried one by one
# Answers about a whole content.
SILENT = frozenset({Reason.MODEL_FAILED, Reason.PICTURES_UNSEEN, Reason.REFUSED, Reason.CONTENT_FILTERED})


@dataclass(frozen=True, slots=True)
class _Attempt:
    scored: Scored[Answer]
    error: PostError | None = None

    @property
    def failure(self) -> Reason | None:
        """Why the model says nothing at all about the content; None: it says something."""
        if self.error is not None:
            return self.error.reason
        answers = [answer for window in self.scored.windows for answer in window]
        silence = [answer for answer in answers if isinstance(answer, Reason) and answer in SILENT]
        return silence[0] if silence and len(silence) == len(answers) else None


async def score(
    scorer: Scorer, content: Content, images: Sequence[int], questions: Sequence[Question], arrival: Arrival | None
) -> Scored[Answer]:
    """Returns the answers, and as problems the parts on which the model fails.

    images: for each picture of the content, the index of its image. Raises PostError if the model fails on all parts,
    and DeviceError if no content can be judged any more.
    """

    async def attempt(text: str, shown: Sequence[int]) -> _Attempt:
        pictures = tuple(picture for picture, image in zip(content.pictures, images, strict=True) if image in shown)
        try:
            scored = await scorer.score(Content(text, pictures, content.digest), questions, arrival)
            return _Attempt(_named(scored, [image for image in images if image in shown]))
        except PostError as error:
            return _Attempt(Scored((), 0.0, 0.0, 0.0), error)

    numbers = sorted(set(images))
    whole = await attempt(content.text, numbers)
    failure = whole.failure
    if failure is None:
        return whole.scored
    judged: list[_Attempt] = []
    problems: list[Problem] = []
    shown = content.text  # beside each picture
    if numbers and shown.strip():
        judged.append(await attempt(shown, ()))
        if (silent := judged[0].failure) is not None:
            shown, problems = "", [Problem(silent, "text")]
            judged = [await attempt(shown, numbers)]
            failure = judged[0].failure
    if failure is None:
        pass
    elif len(numbers) == 1:
        problems.append(Problem(failure, f"images[{numbers[0]}]"))
    elif failure is Reason.DEADLINE_EXCEEDED or len(numbers) > MAX_IMAGES:  # a thread for each try
        problems.append(Problem(failure, "images"))
    else:
        for number in numbers:
            image = await attempt(shown, (number,))
            judged.append(image)
            problems += [Problem(image.failure, f"images[{number}]")] if image.failure is not None else []
    heard = [attempt.scored for attempt in judged if attempt.failure is None]
    if heard:
        return _together(heard, problems)
    if whole.error is not None:
        raise whole.error
    return whole.scored


def _named(scored: Scored[Answer], images: Sequence[int]) -> Scored[Answer]:
    """With the paths of images in place of those of their pictures."""
    paths = {picture_path(picture): f"images[{image}]" for picture, image in enumerate(images)}
    named = (replace(problem, path=paths.get(problem.path, problem.path)) for problem in scored.problems)
    return replace(scored, problems=tuple(dict.fromkeys(named)))


def _together(parts: Sequence[Scored[Answer]], problems: Sequence[Problem]) -> Scored[Answer]:
    return Scored(
        windows=tuple(window for part in parts for window in part.windows),
        encode=sum(part.encode for part in parts),
        batch_wait=sum(part.batch_wait for part in parts),
        model=sum(part.model for part in parts),
        problems=tuple(dict.fromkeys([*(problem for part in parts for problem in part.problems), *problems])),
    )
