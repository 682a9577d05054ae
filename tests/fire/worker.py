"""The real command, with a double whose scores follow from what it is shown: `python -m tests.fire.worker worker`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moderation import models
from moderation.cli import app
from moderation.models.contract import Windows
from moderation.models.fake import Fake, FakeEncoded
from moderation.settings import ModelSettings
from moderation.types import Content, Question, Score


@dataclass(frozen=True, slots=True)
class Seen(FakeEncoded):
    """One window, and a number between 0 and 1 that follows from its text and from every pixel of the pictures."""

    print: float = 0.0


class Seeing(Fake):
    """The fake. Its scores say what it was shown: the mass of a score follows from text and pictures."""

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
        windows = super().encode(content, questions)
        shown = hashlib.sha256()
        for picture in content.pictures:
            shown.update(repr(picture.size).encode() + picture.tobytes())
        items = []
        for item in windows:
            whole = hashlib.sha256(shown.digest() + item.text.encode("utf-8", "surrogatepass")).digest()
            number = int.from_bytes(whole[:4], "big") / (1 << 32)
            items.append(Seen(item.text, item.policies, item.tokens, number))
        return Windows(items, windows.problems)

    def _scores(self, item: FakeEncoded) -> list[Score]:
        scores = super()._scores(item)
        return [replace(score, mass=0.6 + 0.3 * item.print) for score in scores] if isinstance(item, Seen) else scores


def load(settings: ModelSettings) -> Seeing:
    return Seeing(step_ms=1)


if __name__ == "__main__":
    models.MODELS["seeing"] = "tests.fire.worker:load"
    app.main()
