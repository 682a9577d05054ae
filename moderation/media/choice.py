"""Which frames of an animation are judged, and whether they stand for what users see of it.

Frames are compared by small likenesses. The distance of two frames is the largest mean difference, in levels of 255,
over a block of 1/16 of the picture: on white, on black, or of the edges, which hold writing and fine patterns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image as pil
from PIL import ImageChops, ImageFilter

SAME = 4.0  # within this distance, frames are one picture
DIFFERENT = 8.0  # beyond this distance from the frames that are judged, a frame is judged if there is room
NEAR = 40.0  # a picture this near to a judged one counts as seen
NEAR_LONG = 20.0  # the same for a picture that is shown long: there is time to read it
COVERED = 0.9  # of the shown time, that must be judged or seen
ROUNDING_S = 1e-6
LONG_S = 1.0  # a picture that is shown for longer must be judged or seen
SHORTEST_S, SHORT_S = 0.011, 0.1  # browsers show a frame of less than the first for the second
CELLS, BLOCKS = 8, 4  # of a likeness, on each side
SIDE = 256  # pixels, at which edges are looked for
RECENT = 12  # pictures that a frame is compared with
TRIED = 12  # pictures that are compared by how many unseen ones they stand for


class Likeness:
    """What a picture looks like, in a few bytes."""

    def __init__(self, picture: pil.Image) -> None:
        small = picture.reduce(max(1, max(picture.size) // SIDE))
        white = black = small.convert("RGB")
        if small.mode == "RGBA":
            white, black = (_on(small, ground).convert("RGB") for ground in ("white", "black"))
        edges = white.convert("L").filter(ImageFilter.FIND_EDGES).convert("RGB")
        self._cells = pil.new("RGB", (CELLS * 3, CELLS))
        for number, panel in enumerate((white, black, edges)):
            self._cells.paste(panel.resize((CELLS, CELLS), pil.Resampling.BOX), (number * CELLS, 0))

    def distance(self, other: Likeness) -> float:
        """The distance of the two pictures, in levels."""
        differences = ImageChops.difference(self._cells, other._cells)
        blocks = differences.resize((BLOCKS * 3, BLOCKS), pil.Resampling.BOX)
        return float(max(most for _, most in blocks.getextrema()))  # type: ignore[misc]


def _on(picture: pil.Image, ground: str) -> pil.Image:
    return pil.alpha_composite(pil.new("RGBA", picture.size, ground), picture)


@dataclass(slots=True)
class Shown:
    """A picture of an animation, which several frames may show."""

    number: int  # of its first frame
    likeness: Likeness
    seconds: float = 0.0  # in all
    stays: bool = False  # on the screen when the animation has ended
    distance: float = math.inf  # to the nearest picture that is judged

    @property
    def long(self) -> bool:
        """Whether there is time to read it."""
        return self.stays or self.seconds > LONG_S

    @property
    def seen(self) -> bool:
        """Whether it is judged, or near enough to one that is."""
        return self.distance <= (NEAR_LONG if self.long else NEAR)


@dataclass(frozen=True, slots=True)
class Choice:
    """The frames that are judged, by their numbers, and whether the others count as seen."""

    numbers: tuple[int, ...]
    covered: bool


class Pictures:
    """The different pictures of an animation, in the order of their first frames."""

    def __init__(self) -> None:
        self._shown: list[Shown] = []
        self._last: Shown | None = None

    def add(self, number: int, picture: pil.Image, seconds: float) -> bool:
        """Adds a frame. Returns whether it is a new picture."""
        likeness = Likeness(picture)
        known = (shown for shown in reversed(self._shown[-RECENT:]) if shown.likeness.distance(likeness) <= SAME)
        shown = next(known, None)
        self._last = shown or Shown(number, likeness)
        self._last.seconds += SHORT_S if seconds < SHORTEST_S else seconds
        if shown is None:
            self._shown.append(self._last)
        return shown is None

    def choose(self, most: int, *, loops: bool) -> Choice:
        """Chooses at most `most` frames: the first, those that are shown long, and those unlike the ones before.

        Of the last, every other one stands for as much unseen time as it can. loops: the animation begins again and
        again; otherwise its last picture stays. Raises ValueError if there is no frame.
        """
        if self._last is None:
            raise ValueError("an animation has no frame")
        self._last.stays = not loops
        chosen = [self._shown[0]]
        self._judge(chosen[0])
        while len(chosen) < most:
            unseen = [shown for shown in self._shown if not shown.seen]
            long = [shown for shown in unseen if shown.long]
            unlike = max(self._shown, key=lambda shown: shown.distance)
            if long:
                chosen.append(max(long, key=lambda shown: shown.seconds))
            elif unseen and len(chosen) % 2 == 0:
                chosen.append(_standing_for_most(unseen))
            elif unlike.distance > DIFFERENT:
                chosen.append(unlike)
            else:
                break
            self._judge(chosen[-1])
        unseen = [shown for shown in self._shown if not shown.seen]
        seconds = sum(shown.seconds for shown in unseen)
        covered = seconds <= (1 - COVERED) * sum(shown.seconds for shown in self._shown) + ROUNDING_S
        numbers = tuple(sorted(shown.number for shown in chosen))
        return Choice(numbers, covered and not any(shown.long for shown in unseen))

    def _judge(self, judged: Shown) -> None:
        for shown in self._shown:
            shown.distance = min(shown.distance, shown.likeness.distance(judged.likeness))


def _standing_for_most(unseen: Sequence[Shown]) -> Shown:
    """The one of the unseen pictures that most of their time is near to. Of many, some are tried."""

    def near_s(shown: Shown) -> float:
        return sum(other.seconds for other in unseen if shown.likeness.distance(other.likeness) <= NEAR)

    return max(unseen[:: -(-len(unseen) // TRIED)], key=near_s)
