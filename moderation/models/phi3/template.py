"""Phi-3-Vision's template: <|user|>, the turn, <|end|>, <|assistant|>."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from moderation.models.shared.tokenizer import Tokenizer

OPEN = "<|user|>\n"
CLOSE = "<|end|>\n<|assistant|>\n"
YES, NO = "Yes", "No"


class Phi3Template:
    """See shared.template.Template.

    The published processor tokenises everything between two pictures as one chunk, and starts each with <s>.
    """

    pictures_first = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @property
    def words(self) -> Sequence[str]:
        """See Template."""
        return OPEN, CLOSE, YES, NO

    @property
    def answers(self) -> tuple[Sequence[int], Sequence[int]]:
        """See Template."""
        return (self.tokenizer.word(YES),), (self.tokenizer.word(NO),)

    @property
    def reserved(self) -> Collection[int]:
        """See Template."""
        return self.tokenizer.added

    def start(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(OPEN + text, begin=True)

    def after_picture(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(text, begin=True)

    def after_text(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(text)

    def user_text(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.untrusted(text)

    def question(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(text + CLOSE)

    def picture(self, number: int, tokens: int) -> list[int]:
        """See Template."""
        return [-1 - number] * tokens
