"""A post as model servers get it: windows of text, pictures as JPEG files, nothing that reads as a control token.

A server builds its prompt as text and then finds the control tokens in it, those that a user has spelt, too. So their
spellings are changed here: the first sign becomes one that looks like it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO

from PIL import Image as pil

from moderation.models.contract import Windows
from moderation.models.remote.wire import Window
from moderation.models.spread import between, spread
from moderation.settings import ModelSettings
from moderation.types import Content, Problem, Question, Reason

# How control tokens of published chat templates are spelt:
CONTROL = re.compile(
    r"<(?=[|｜])"  # <|im_end|>, <|vision_start|>, and DeepSeek's <｜User｜>
    r"|<(?=<?/?[^\s<>]{1,64}>)"  # <s>, </s>, <<SYS>>, <start_of_turn>, <image>, <IMG_CONTEXT>, <think>, <0x0A>
    r"|\[(?=/?[A-Z][A-Z0-9_]*\])"  # [INST], [/INST], [IMG_BREAK], [TOOL_CALLS], [SEP]
    r"|\[(?=(?:[gs]MASK|control_\d+)\])"  # of GLM and Mistral
    r"|(?<=\])[~<](?=[a-z]*\])|\[(?=e~\[)"  # MiniMax: ]~b], ]<], [e~[
)
# No normalisation of Unicode turns these back.
ALIKE = {"<": "‹", "[": "⁅", "~": "∼"}

LONGEST_SIDE = 2_048  # pixels: models look at no more
QUALITY = 95
BYTES_A_TOKEN = 3  # of UTF-8. English has four, Chinese three; a server with less room gets halves
PICTURE_TOKENS = 1_024  # the most that widespread models take for one
SHORTEST = 256  # bytes of a text that is worth two requests
OVERLAP = 8  # the halves of a text share this part of it
# Of what this module does to a post; part of the model's digest.
VERSION = f"1 {LONGEST_SIDE} {QUALITY} {BYTES_A_TOKEN} {CONTROL.pattern} {ALIKE}"


def windows(content: Content, questions: Sequence[Question], settings: ModelSettings) -> Windows[Window]:
    """One window for each stretch of the text, all with all pictures. `max_windows` of a longer text, evenly spread."""
    text = harmless(content.text)
    every = list(_cut(text, settings.window_tokens * BYTES_A_TOKEN, settings.window_overlap * BYTES_A_TOKEN))
    stretches = [every[place] for place in spread(len(every), settings.max_windows)]
    problems = (Problem(Reason.TEXT_TOO_LONG, "text"),) if len(stretches) < len(every) else ()
    pictures = tuple(_file(picture) for picture in content.pictures)
    asked = sum(_tokens(question.text) for question in questions)
    fixed = asked + len(pictures) * PICTURE_TOKENS
    windows = [Window(stretch, pictures, tuple(questions), fixed + _tokens(stretch)) for stretch in stretches]
    return Windows(windows, problems)


def halves(window: Window) -> Sequence[Window]:
    """The window as two, for a server whose context is too small; empty if it cannot be cut further.

    The halves share the larger of text and pictures, and both have all of the other.
    """
    size = len(window.text.encode())
    if len(window.pictures) > 1 and (size < SHORTEST or len(window.pictures) * PICTURE_TOKENS > size // BYTES_A_TOKEN):
        middle = len(window.pictures) // 2
        groups = window.pictures[:middle], window.pictures[middle:]
        fixed = window.tokens - len(window.pictures) * PICTURE_TOKENS
        return [replace(window, pictures=group, tokens=fixed + len(group) * PICTURE_TOKENS) for group in groups]
    if size < SHORTEST:
        return []
    overlap = size // OVERLAP
    fixed = window.tokens - _tokens(window.text)
    parts = _cut(window.text, (size + overlap + 1) // 2, overlap)
    return [replace(window, text=part, tokens=fixed + _tokens(part)) for part in parts]


def harmless(text: str) -> str:
    """The text without a spelling of a control token. A part of such a text has none, either."""
    return CONTROL.sub(lambda sign: ALIKE[sign[0]], text)


def _tokens(text: str) -> int:
    return -(-len(text.encode()) // BYTES_A_TOKEN)


def _cut(text: str, size: int, overlap: int) -> Iterator[str]:
    """Stretches of at most `size` bytes that cover the text. Each shares about `overlap` bytes with the one before."""
    data = text.encode()
    if len(data) <= size:
        yield text
        return
    for start in range(0, len(data) - overlap, size - overlap):
        first = min(start, len(data) - size)  # the last one is whole, too
        yield between(data, first, first + size)


def _file(picture: pil.Image) -> bytes:
    """A JPEG file, RGB with all of the colour, LONGEST_SIDE at most."""
    shown = picture.convert("RGB")  # a copy, which `thumbnail` may change
    if max(shown.size) > LONGEST_SIDE:
        shown.thumbnail((LONGEST_SIDE, LONGEST_SIDE), pil.Resampling.LANCZOS, reducing_gap=None)
    file = BytesIO()
    shown.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()
