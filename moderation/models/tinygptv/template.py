"""TinyGPT-V's templates, by the trainer's name of the variant. Their words are ordinary text to the tokenizer.

    minigpt4      ###Human: <Img>picture</Img> words###Assistant:      and a space
    minigpt_v2    <s>[INST] <Img>picture</Img> words [/INST]

These are the templates that the original evaluates the first with, and shows the second with.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from moderation.models.shared.tokenizer import Tokenizer

TURNS = {"minigpt4": ("###Human: ", "###Assistant: "), "minigpt_v2": ("<s>[INST] ", " [/INST]")}
OPEN, CLOSE = "<Img>", "</Img>"  # around a picture
SEPARATORS = ("###", " ###")  # end a turn, and an answer, of all variants
YES, NO = ("Yes", "yes"), ("No", "no")  # the data sets of the last stages were lower-cased

# Spellings of structure. In a user's words each of their characters becomes a token of its own. `<s>` is not among
# them: it is three letters to this tokenizer, in the template, too, and structure only together with [INST].
STRUCTURE = re.compile(r"#{3,}|\[/?INST\]|</?Img>|<ImageHere>|\[(?:vqa|caption|refer|identify|grounding|detection)\]")


class TinyGptvTemplate:
    """See shared.template.Template.

    The tokenizer has no token for most of the structure: only its spelling marks it. So a user's words that spell
    structure are tokenised character by character, which never gives the ids of the structure.
    """

    pictures_first = True

    def __init__(self, tokenizer: Tokenizer, arch: str) -> None:
        """Raises ConfigError when an answer takes more than one token."""
        self.tokenizer = tokenizer
        self.turn = TURNS[arch]
        self._answers = tuple(map(tokenizer.word, YES)), tuple(map(tokenizer.word, NO))
        separators = map(tokenizer.trusted, SEPARATORS)
        self._reserved = tokenizer.added.union(*(ids for ids in separators if len(ids) == 1))

    @property
    def words(self) -> Sequence[str]:
        """See Template."""
        return *self.turn, OPEN, CLOSE, STRUCTURE.pattern, *YES, *NO

    @property
    def answers(self) -> tuple[Sequence[int], Sequence[int]]:
        """See Template."""
        return self._answers

    @property
    def reserved(self) -> Collection[int]:
        """See Template."""
        return self._reserved

    def start(self, text: str) -> list[int]:
        """See Template. Without words a picture follows, whose frame is tokenised with the turn's start."""
        return self.tokenizer.trusted(self.turn[0] + (text or OPEN))

    def after_picture(self, text: str) -> list[int]:
        """See Template. A space stands in place of the line break behind a picture, as in training."""
        return self.tokenizer.trusted(f"{CLOSE} {text.removeprefix(chr(10))}")

    def after_text(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(text)

    def user_text(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.apart(text, STRUCTURE)

    def question(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(text + self.turn[1])

    def picture(self, number: int, tokens: int) -> list[int]:
        """See Template. The first picture's frame is opened by `start`."""
        return [*(self.tokenizer.trusted(OPEN) if number else ()), *[-1 - number] * tokens]
