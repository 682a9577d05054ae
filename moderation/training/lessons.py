"""What training reads: pictures drawn once and kept as crops, and posts with policies, made up as they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image as Picture

from moderation.models.phi3 import preprocessing
from moderation.models.phi3.network import PreprocessorConfig
from moderation.models.phi3.preprocessing import Crops, HdTransform
from moderation.policies import Policy
from moderation.training import phrasings, pictographs, sayings
from moderation.training.phrasings import Rule
from moderation.training.pictographs import Box, Scene
from moderation.training.world import HELD_OUT_GROUPS, THINGS, Thing, Truth, held_out

SIDE, BUDGET, TOKEN = 112, 2, 28  # of a crop, in pixels; crops besides the global one; side of a token in a crop
MEAN, STD = PreprocessorConfig().image_mean, PreprocessorConfig().image_std
TRANSFORM = HdTransform(BUDGET, SIDE, SIDE // TOKEN, MEAN, STD)
PLACES = 64  # no picture has more tokens
NOTHING, UNCLEAR = -1, -2  # labels of a token without a thing in it, and of one that is better left out
CHUNK = 1000
INDEX = {thing.name: number for number, thing in enumerate(THINGS)}


class Pictures(Protocol):
    """What posts take their pictures from."""

    def __len__(self) -> int: ...

    def things(self, picture: int) -> list[Thing]:
        """The things in a picture."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Pictures as the tower sees them. Where a picture has one local crop, the global one is equal and stands alone."""

    pixels: NDArray[np.uint8]  # [crops, 3, side, side]
    first: NDArray[np.int64]  # [pictures + 1]
    grid: NDArray[np.int64]  # [pictures, 2]: rows and columns of local crops
    labels: NDArray[np.int64]  # [pictures, PLACES]: for each token the number of the thing in it
    shown: NDArray[np.bool_]  # [pictures, things]

    def __len__(self) -> int:
        return len(self.grid)

    def things(self, picture: int) -> list[Thing]:
        return [THINGS[number] for number in np.flatnonzero(self.shown[picture])]


def shelf(folder: Path, *, seed: int, count: int, training: bool) -> Shelf:
    """The pictures of a seed: drawn on all cores on the first call, read from `folder` on later ones."""
    folder = folder / f"{'training' if training else 'held-out'}-{seed}-{count}"
    names = ("pixels", "first", "grid", "labels", "shown")
    if not (folder / "shown.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        chunks = [(seed, start, min(CHUNK, count - start), training) for start in range(0, count, CHUNK)]
        # One thread each: threads of torch that wait for one another would take six times as long.
        with ProcessPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as workers:
            parts = list(workers.map(_draw, chunks))
        pixels, counts, *rest = (np.concatenate(one) for one in zip(*parts, strict=True))
        first = np.concatenate([[0], np.cumsum(counts)])
        for name, array in zip(names, (pixels, first, *rest), strict=True):
            np.save(folder / f"{name}.npy", array)
    pixels, *others = (np.load(folder / f"{name}.npy", mmap_mode="r" if name == "pixels" else None) for name in names)
    return Shelf(pixels, *others)


def _draw(chunk: tuple[int, int, int, bool]) -> tuple[NDArray[np.generic], ...]:
    seed, start, count, training = chunk
    random = Random(f"pictures {seed} {start} {training}")
    pixels, counts, grid, places, shown = [], [], [], [], np.zeros((count, len(THINGS)), dtype=np.bool_)
    for number in range(count):
        drawn = pictographs.scene(random, training=training)
        seen = crops(drawn.picture)
        kept = seen.pixels if len(seen.pixels) > 2 else seen.pixels[:1]
        plain = kept * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        pixels.append((plain * 255).round().clamp(0, 255).to(torch.uint8).numpy())
        counts.append(len(kept))
        grid.append((seen.rows, seen.cols))
        places.append(labels(drawn))
        shown[number, [INDEX[thing.name] for thing in drawn.things]] = True
    return np.concatenate(pixels), np.array(counts), np.array(grid), np.array(places), shown


def crops(picture: Picture) -> Crops:
    """What the service makes of a picture for this checkpoint."""
    return TRANSFORM.crops(picture)


def labels(drawn: Scene) -> list[int]:
    """Of each token, in the order of the model's: local crops, the separator between, the global crop."""
    width, height = drawn.picture.size
    plan = preprocessing.layout(width, height, BUDGET, SIDE)
    scale = plan.resized[0] / width, plan.resized[1] / height
    boxes = [
        (
            box[0] * scale[0] + plan.offset[0],
            box[1] * scale[1] + plan.offset[1],
            box[2] * scale[0] + plan.offset[0],
            box[3] * scale[1] + plan.offset[1],
        )
        for box in drawn.boxes
    ]
    whole = [
        (left / plan.cols, top / plan.rows, right / plan.cols, bottom / plan.rows) for left, top, right, bottom in boxes
    ]
    side = SIDE // TOKEN
    places = [
        *_grid_labels(plan.rows * side, plan.cols * side, drawn.things, boxes),
        UNCLEAR,
        *_grid_labels(side, side, drawn.things, whole),
    ]
    return places + [UNCLEAR] * (PLACES - len(places))


def _grid_labels(rows: int, cols: int, things: Sequence[Thing], boxes: Sequence[Box]) -> Iterator[int]:
    for row in range(rows):
        for col in range(cols):
            cell = (col * TOKEN, row * TOKEN, col * TOKEN + TOKEN, row * TOKEN + TOKEN)
            filled = [
                (pictographs.overlap(cell, box), INDEX[thing.name]) for thing, box in zip(things, boxes, strict=True)
            ]
            most, thing = max(filled, default=(0.0, NOTHING))
            yield thing if most >= 0.5 else UNCLEAR if most > 0.1 else NOTHING
        yield UNCLEAR  # the separator at the row's end


@dataclass(frozen=True, slots=True)
class Lesson:
    """A post, policies about it, and the answers."""

    text: str
    pictures: tuple[int, ...]  # on the shelf
    truth: Truth
    rules: tuple[Rule, ...]  # the policies' meanings
    policies: tuple[Policy, ...]
    answers: tuple[bool, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(rule.kind for rule in self.rules)


@dataclass(frozen=True, slots=True)
class Course:
    """Which posts and policies are asked for."""

    training: bool = True  # no held-out pairs
    unseen: bool = False  # phrasings and sentences that training never saw
    groups: tuple[str, ...] | None = None  # policies about these groups only
    wide: bool = False  # all phrasings that training may see, and more made-up words


TRAINING = Course()
WIDE = Course(wide=True)
HELD_OUT = Course(training=False)
HELD_OUT_PHRASINGS = Course(training=False, unseen=True)
HELD_OUT_POLICIES = Course(training=False, groups=HELD_OUT_GROUPS)


def lesson(random: Random, shelf: Pictures, course: Course = TRAINING, *, questions: int = 6) -> Lesson:
    """A post with pictures of the shelf, and policies about it."""
    parts = random.choices(("both", "picture", "text", "album"), weights=(60, 18, 18, 4))[0]
    pictures = [] if parts == "text" else [random.randrange(len(shelf))]
    if parts == "album":
        pictures.append(random.randrange(len(shelf)))
    shown = [thing for picture in pictures for thing in shelf.things(picture)]
    if course.training and any(held_out(*pair) for pair in combinations(shown, 2)):
        pictures = pictures[:1]  # pictures on a training shelf hold no such pair, two of them together may
        shown = shelf.things(pictures[0])
    said = sayings.SILENT
    if parts != "picture":
        said = sayings.say(random, shown, training=course.training, unseen=course.unseen)
    truth = said.truth(frozenset(thing.name for thing in shown))
    made_up = 0.2 if course.wide else 0.12
    rules = [
        phrasings.rule(random, truth, groups=course.groups, training=course.training, made_up=made_up)
        for _ in range(questions)
    ]
    return Lesson(
        text=said.text,
        pictures=tuple(pictures),
        truth=truth,
        rules=tuple(rules),
        policies=tuple(phrasings.phrase(random, rule, unseen=course.unseen, wide=course.wide) for rule in rules),
        answers=tuple(rule.broken_by(truth) for rule in rules),
    )
