"""H2OVL's template: <|prompt|>, the turn, <|end|>, <|answer|>. There is no <s>, and no newline between them.

Of these only <|end|> is a token. The model reads <|prompt|> and <|answer|> as plain text, which a user could type. In a
user's words they are therefore spelt with other tokens: the same letters, but not the ids that stand for structure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import pairwise

from moderation.errors import ConfigError
from moderation.models.h2ovl.tokenizer import MODEL, Tokenizer

PROMPT, END, ANSWER = "<|prompt|>", "<|end|>", "<|answer|>"
IMAGE, IMAGE_END = "<img>", "</img>"
SLOT = "<IMG_CONTEXT>"
YES, NO = "Yes", "No"
MARKERS = re.compile(r"(?<=<\|)(?=(?:prompt|answer)\|>)")  # between <| and the word


class H2ovlTemplate:
    """See shared.template.Template."""

    pictures_first = True  # the published chat puts them there, where a question says nothing else

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.slot = tokenizer.token(SLOT)
        self._image, self._image_end = tokenizer.token(IMAGE), tokenizer.token(IMAGE_END)
        self._end = tokenizer.token(END)
        self._yes, self._no = tokenizer.word(ANSWER, YES), tokenizer.word(ANSWER, NO)
        for marker in (PROMPT, ANSWER):
            # The first token may differ: behind a space it begins with "▁".
            structure, typed = tokenizer.trusted(marker)[1:], self.user_text(marker)
            if any(typed[place : place + len(structure)] == structure for place in range(len(typed))):
                raise ConfigError(
                    f"{MODEL}: a user who writes {marker} would get the template's own tokens; fetch the published file"
                )

    @property
    def words(self) -> Sequence[str]:
        """See Template."""
        return PROMPT, END, ANSWER, IMAGE, IMAGE_END, MARKERS.pattern, YES, NO

    @property
    def answers(self) -> tuple[Sequence[int], Sequence[int]]:
        """See Template."""
        return (self._yes,), (self._no,)

    @property
    def reserved(self) -> Collection[int]:
        """See Template."""
        return self.tokenizer.added

    def start(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(PROMPT + text)

    def after_picture(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(text)

    def after_text(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(text, continued=True)

    def user_text(self, text: str) -> list[int]:
        """See Template."""
        # One letter of the word stays with what is before it: the cut then falls into the marker's own tokens.
        cuts = [0, *(match.end() + 1 for match in MARKERS.finditer(text)), len(text)]
        return [id for start, stop in pairwise(cuts) for id in self.tokenizer.continuing(text[start:stop])]

    def question(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(text + END + ANSWER, continued=True)

    def picture(self, number: int, tokens: int) -> list[int]:
        """See Template."""
        return [self._image, *[-1 - number] * tokens, self._image_end]
