"""How well the small checkpoint does on posts that training never saw: `python -m moderation.training.evaluate FOLDER`.

Everything goes the way of a real post: pictures are drawn, policies are as in policy files, and the checkpoint is
loaded and run as in the service.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Annotated

import torch
import typer

from moderation.models.phi3.family import Phi3Vision, load
from moderation.policies import Policy
from moderation.settings import ModelSettings
from moderation.training import lessons, phrasings, pictographs, sayings
from moderation.training.lessons import HELD_OUT, HELD_OUT_PHRASINGS, HELD_OUT_POLICIES, Course, Lesson
from moderation.training.phrasings import Kind, Rule
from moderation.training.pictographs import Scene
from moderation.training.sayings import Saying
from moderation.training.world import GROUPS, HELD_OUT_GROUPS, THINGS, Thing, Truth
from moderation.types import Content

BATCH = 16


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures of held-out posts, as users would send them."""

    scenes: tuple[Scene, ...]

    def __len__(self) -> int:
        return len(self.scenes)

    def things(self, picture: int) -> list[Thing]:
        return list(self.scenes[picture].things)


@dataclass(frozen=True, slots=True)
class Asked:
    """A post and policies about it."""

    content: Content
    policies: tuple[Policy, ...]


def gallery(seed: int, count: int) -> Gallery:
    """Newly drawn pictures, with held-out backgrounds and half of the pairs of things held out."""
    random = Random(f"gallery {seed}")
    return Gallery(tuple(pictographs.scene(random, training=False) for _ in range(count)))


def margins(model: Phi3Vision, asked: Sequence[Asked]) -> list[list[float]]:
    """For each policy of each post, the logit of Yes minus that of No."""
    answered: list[list[float]] = []
    for start in range(0, len(asked), BATCH):
        batch = [
            model.encode(post.content, [policy.question_for_model for policy in post.policies])[0]
            for post in asked[start : start + BATCH]
        ]
        answered += [[score.margin for score in scores] for scores in model.score(batch)]
    return answered


def auc(truth: Sequence[bool], scores: Sequence[float]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative; a tie counts half."""
    ordered = sorted(zip(scores, truth, strict=True))
    positives, rank, total = sum(truth), 0, 0.0
    while rank < len(ordered):
        end = rank
        while end < len(ordered) and ordered[end][0] == ordered[rank][0]:
            end += 1
        total += (rank + end + 1) / 2 * sum(so for _, so in ordered[rank:end])
        rank = end
    negatives = len(truth) - positives
    return (total - positives * (positives + 1) / 2) / (positives * negatives) if positives and negatives else 0.5


def course_figures(model: Phi3Vision, pictures: Gallery, course: Course, seed: int, posts: int) -> dict[str, float]:
    """The AUC over all questions, the share of right answers at P(Yes) = 0.5, and the AUC of each kind of policy."""
    random = Random(f"course {seed}")
    made = [lessons.lesson(random, pictures, course) for _ in range(posts)]
    scored = [margin for row in margins(model, [_asked(lesson, pictures) for lesson in made]) for margin in row]
    truth = [answer for lesson in made for answer in lesson.answers]
    tags = [kind for lesson in made for kind in lesson.kinds]
    figures = {"auc": auc(truth, scored), "right": _mean((m > 0) is so for m, so in zip(scored, truth, strict=True))}
    defined = ["defined" if policy.definitions else "undefined" for lesson in made for policy in lesson.policies]
    for labels in (tags, defined) if course.groups else (tags,):
        for label in sorted(set(labels)):
            part = [place for place, each in enumerate(labels) if each == label]
            figures[f"auc {label}"] = auc([truth[place] for place in part], [scored[place] for place in part])
    return figures


def pair_figures(model: Phi3Vision, pictures: Gallery, seed: int, pairs: int) -> dict[str, float]:
    """The share of pairs with both answers right at P(Yes) = 0.5. One of a pair breaks the rule, the other does not.

    words: same post, another thing in the policy. picture: another picture. text: another text.
    """
    makers: dict[str, Callable[[Random, Gallery], tuple[Asked, Asked] | None]] = {
        "words": _other_words,
        "picture": _other_picture,
        "text": _other_text,
    }
    figures = {}
    for name, make in makers.items():
        random = Random(f"pairs {name} {seed}")
        made: list[tuple[Asked, Asked]] = []
        while len(made) < pairs:
            if pair := make(random, pictures):
                made.append(pair)
        scored = [row[0] for row in margins(model, [asked for pair in made for asked in pair])]
        figures[name] = _mean(yes > 0 > no for yes, no in zip(scored[::2], scored[1::2], strict=True))
    return figures


def _other_words(random: Random, pictures: Gallery) -> tuple[Asked, Asked] | None:
    lesson = lessons.lesson(random, pictures, HELD_OUT, questions=0)
    kind = random.choice(list(Kind))
    subjects = [thing.name for thing in THINGS] if random.random() < 0.65 else _trained_groups()
    broken = [name for name in subjects if Rule(kind, (name,)).broken_by(lesson.truth)]
    kept = [name for name in subjects if not Rule(kind, (name,)).broken_by(lesson.truth)]
    if not broken or not kept:
        return None
    state = random.random()
    yes, no = (phrasings.phrase(Random(state), Rule(kind, (random.choice(some),))) for some in (broken, kept))
    content = _content(lesson.text, [pictures.scenes[place] for place in lesson.pictures])
    return Asked(content, (yes,)), Asked(content, (no,))


def _other_picture(random: Random, pictures: Gallery) -> tuple[Asked, Asked] | None:
    shown = [random.choice(pictures.scenes) for _ in range(2)]
    said = sayings.say(random, list(shown[0].things), training=False) if random.random() < 0.8 else sayings.SILENT
    rule = _telling(random, [_truth(said, scene) for scene in shown])
    return _pair(random, rule, [(said, scene) for scene in shown]) if rule else None


def _other_text(random: Random, pictures: Gallery) -> tuple[Asked, Asked] | None:
    scene = random.choice(pictures.scenes)
    said = [sayings.say(random, list(scene.things), training=False) for _ in range(2)]
    rule = _telling(random, [_truth(saying, scene) for saying in said])
    return _pair(random, rule, [(saying, scene) for saying in said]) if rule else None


def _telling(random: Random, truths: Sequence[Truth]) -> Rule | None:
    """A rule that the first breaks and the second does not."""
    kind = random.choice(list(Kind))
    subjects = [thing.name for thing in THINGS] if random.random() < 0.65 else _trained_groups()
    rules = [Rule(kind, (name,)) for name in subjects]
    telling = [rule for rule in rules if rule.broken_by(truths[0]) and not rule.broken_by(truths[1])]
    return random.choice(telling) if telling else None


def _pair(random: Random, rule: Rule, posts: Iterable[tuple[Saying, Scene]]) -> tuple[Asked, Asked]:
    policy = phrasings.phrase(random, rule)
    first, second = (Asked(_content(said.text, [scene]), (policy,)) for said, scene in posts)
    return first, second


def _trained_groups() -> list[str]:
    return [group for group in GROUPS if group not in HELD_OUT_GROUPS]


def _truth(said: Saying, scene: Scene) -> Truth:
    return said.truth(frozenset(thing.name for thing in scene.things))


def _asked(lesson: Lesson, pictures: Gallery) -> Asked:
    return Asked(_content(lesson.text, [pictures.scenes[place] for place in lesson.pictures]), lesson.policies)


def _content(text: str, scenes: Sequence[Scene]) -> Content:
    return Content(text, tuple(scene.picture for scene in scenes), "")


def milliseconds(model: Phi3Vision, pictures: Gallery, posts: int = 60) -> float:
    """Median time of a post with one picture and six policies, encoded and scored alone, on one core."""
    random = Random("speed")
    times: list[float] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    while len(times) < posts:
        lesson = lessons.lesson(random, pictures, HELD_OUT)
        if len(lesson.pictures) == 1:
            started = time.perf_counter()
            margins(model, [_asked(lesson, pictures)])
            times.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return 1000 * statistics.median(times)


def _mean(values: Iterable[bool]) -> float:
    return statistics.fmean(map(float, values))


def main(
    folder: Annotated[Path, typer.Argument(help="the checkpoint")],
    seed: Annotated[int, typer.Option(help="of the held-out posts; training's seed is separate")] = 7,
    posts: int = 600,
    pairs: int = 400,
) -> None:
    """Print the figures as JSON."""
    model = load(ModelSettings(name=str(folder), device="cpu", dtype="float32"))
    pictures = gallery(seed, 500)
    courses = {
        "phrased as trained": HELD_OUT,
        "unseen phrasings": HELD_OUT_PHRASINGS,
        "held-out groups": HELD_OUT_POLICIES,
        "held-out groups, unseen phrasings": replace(HELD_OUT_POLICIES, unseen=True),
    }
    figures: dict[str, object] = {"seed": seed, "posts": posts, "pairs": pairs}
    figures |= {name: course_figures(model, pictures, course, seed, posts) for name, course in courses.items()}
    figures["pairs right"] = pair_figures(model, pictures, seed, pairs)
    figures["megabytes"] = sum(os.path.getsize(file) for file in folder.iterdir()) / 1e6
    figures["ms a post"] = milliseconds(model, pictures)
    typer.echo(json.dumps(figures, indent=1, default=str))


if __name__ == "__main__":
    typer.run(main)
