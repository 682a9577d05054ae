"""How far a picture that the model is shown is from what a browser shows."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as pil

from moderation.errors import PostError
from moderation.media.decoding import decode
from moderation.settings import MediaSettings
from tests.browser import corpus
from tests.browser.browser import Browser
from tests.browser.corpus.case import Case

MEAN = 3.0  # levels of 255 on average over the picture
BLOCK = 12.0  # the same over each block
SIDE = 32  # pixels, of a block
SETTINGS = MediaSettings()
SUBJECTS = sorted(module.name for module in pkgutil.iter_modules(corpus.__path__) if module.name != "case")


@dataclass(frozen=True, slots=True)
class Seen:
    """One file, as the browser and the model see it."""

    case: Case
    mean: float = 0.0  # difference in levels over the picture
    worst: float = 0.0  # the same over the worst block
    wrong: str = ""  # why it is another picture; empty if it is the same

    def __str__(self) -> str:
        return f"{self.case.name}: {self.wrong or f'{self.mean:.1f} levels, {self.worst:.1f} in the worst block'}"


def cases_of(subject: str) -> list[Case]:
    """All files of a module of the corpus. Their names are unique."""
    cases: list[Case] = list(importlib.import_module(f"{corpus.__name__}.{subject}").cases())
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), f"names are there twice: {sorted(names)}"
    return cases


def compared(browser: Browser, cases: Sequence[Case]) -> Iterator[Seen]:
    """Draws each file and decodes it. The first picture is the one that is compared."""
    for case, shown in zip(cases, browser.draw(cases), strict=True):
        if (shown is not None) is not case.shown:
            yield Seen(case, wrong="the browser shows it" if shown else "the browser shows nothing")
        elif shown is not None:
            yield _compared(case, shown)


def _compared(case: Case, shown: pil.Image) -> Seen:
    try:
        judged = next(iter(decode(case.data, SETTINGS)))
    except PostError as error:
        return Seen(case, wrong=f"it is shown, and not judged: {error}")
    if judged.size != shown.size:
        return Seen(case, wrong=f"it is shown as {shown.size}, and judged as {judged.size}")
    mean, worst = difference(judged, shown)
    wrong = f"{mean:.1f} levels off, {worst:.1f} in the worst block" if mean > MEAN or worst > BLOCK else ""
    return Seen(case, mean, worst, wrong)


def difference(one: pil.Image, other: pil.Image) -> tuple[float, float]:
    """The mean difference of two RGB pictures of one size, in levels, and that of the worst block."""
    levels = np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean(axis=2)
    blocks = (
        float(levels[y : y + SIDE, x : x + SIDE].mean())
        for y in range(0, levels.shape[0], SIDE)
        for x in range(0, levels.shape[1], SIDE)
    )
    return float(levels.mean()), max(blocks)
