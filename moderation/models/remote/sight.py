"""Whether a server's model sees pictures. Some servers drop a field that they do not know, and answer without them.

A plate of one colour is shown, and each colour is asked for. A model that sees it prefers the right one clearly, or
says Yes to it alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog
from openai import APIStatusError
from PIL import Image

from moderation.models.remote.usage import Usage
from moderation.models.remote.wire import Reply, Window
from moderation.types import Answer, Question, Score, YesNo

PURPLE = (140, 20, 180)
COLOURS = ("purple", "green", "yellow", "white")  # the first is right, and rarely guessed
CLEARLY = 1.0  # of margins
REFUSALS = (400, 413, 415, 422)  # statuses of servers that say that they take no pictures

Ask = Callable[[Window, range], Awaitable[Reply]]

log = structlog.get_logger()


def plate() -> Window:
    """A post of one purple picture, with a question for each colour."""
    file = io.BytesIO()
    Image.new("RGB", (256, 256), PURPLE).save(file, "JPEG", quality=95)
    questions = tuple(Question("", f"Is the whole picture {colour}?") for colour in COLOURS)
    return Window("", (file.getvalue(),), questions, tokens=512)


async def look(model: str, reply: Reply, ask: Ask) -> tuple[bool, Reply]:
    """Whether the model sees pictures, and the reply with the tokens that this took. Logs a model that does not.

    model: its name. reply: to another question of our own.
    """
    seen, spent = await sees(ask)
    if not seen:
        log.warning("model_pictures_unseen", model=model)
    return seen, replace(reply, usage=reply.usage + spent)


async def sees(ask: Ask) -> tuple[bool, Usage]:
    """Whether the model sees pictures, and what the question has cost. Raises what `ask` raises, but no refusal."""
    try:
        reply = await ask(plate(), range(len(COLOURS)))
    except APIStatusError as error:
        if error.status_code in REFUSALS:
            return False, Usage()
        raise
    margins = [_margin(answer) for answer in reply.answers]
    seen = len(margins) == len(COLOURS) and margins[0] - max(margins[1:]) >= CLEARLY  # NaN is not
    return seen, reply.usage


def _margin(answer: Answer) -> float:
    """How clearly the answer is Yes; NaN: it is no answer."""
    if isinstance(answer, YesNo):
        return CLEARLY if answer.yes else 0.0
    return answer.margin if isinstance(answer, Score) else math.nan
