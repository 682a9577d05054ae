"""How a family writes a prompt: the ids around and between the service's words, a user's words and pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

from moderation.policies import prompts
from moderation.policies.prompts import Slot, Trusted


class Template(Protocol):
    """A family's prompt template on its tokenizer. Every method returns token ids. Thread-safe.

    The parts of a prompt are tokenised apart, so a user's words never become structure.
    """

    @property
    def answers(self) -> tuple[Sequence[int], Sequence[int]]:
        """The ids that mean Yes and those that mean No, where the answer begins. The first of each is the usual one."""

    @property
    def reserved(self) -> Collection[int]:
        """Ids of the template's structure, which a user's words must never yield."""

    @property
    def words(self) -> Sequence[str]:
        """All that decides ids and stands in no file: words of the structure and of the answers, and the patterns of
        a user's words that are tokenised otherwise. Part of the model's digest, as `pictures_first` is.
        """

    @property
    def pictures_first(self) -> bool:
        """Whether the family was trained with pictures before all words of the user's turn."""

    def start(self, text: str) -> list[int]:
        """The beginning of the prompt with the service's first words, which may be empty."""

    def after_picture(self, text: str) -> list[int]:
        """The service's words behind a picture."""

    def after_text(self, text: str) -> list[int]:
        """The service's words behind a user's words."""

    def user_text(self, text: str) -> list[int]:
        """A user's words, behind the service's. The spelling of a structure token stays plain text."""

    def question(self, text: str) -> list[int]:
        """A policy's words, behind the service's, and the end of the prompt up to where the answer begins."""

    def picture(self, number: int, tokens: int) -> list[int]:
        """What stands in the place of picture `number`, from 0: -1 - number `tokens` times, and its frame."""


def runs(template: Template, parts: Iterable[prompts.Part], slots: Sequence[int]) -> Iterator[tuple[bool, list[int]]]:
    """(whether they are a user's words, ids) of the parts of a prompt in order.

    slots: how many tokens each picture takes.
    """
    chunk, words = "", template.start
    for part in parts:
        if isinstance(part, Trusted):
            chunk += part.text
            continue
        yield False, words(chunk)
        chunk = ""
        if isinstance(part, Slot):
            yield False, template.picture(part.picture, slots[part.picture])
            words = template.after_picture
        else:
            yield True, template.user_text(part.text)
            words = template.after_text
    yield False, words(chunk)
