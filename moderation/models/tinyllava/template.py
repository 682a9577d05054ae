"""TinyLLaVA's prompts: a turn of USER, in which the pictures come first, and ASSISTANT, whose first token is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from moderation.errors import ConfigError
from moderation.models.shared.tokenizer import Tokenizer

TAG = "<image>"
END = "<|endoftext|>"
# Where a user writes a role's name as the prompt does, its letters become tokens one by one. The prompt's own tokens
# for it then stand nowhere else.
ROLE = re.compile("(?:USER|ASSISTANT)(?=:)")


@dataclass(frozen=True, slots=True)
class Form:
    """The words around a turn. yes, no: the answers with the space that they begin with, if it is part of the token."""

    opening: str
    closing: str
    yes: str
    no: str


# Of the published code for Phi-2.
PHI = Form(
    opening="A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: ",
    closing=" ASSISTANT:",
    yes=" Yes",
    no=" No",
)
# Of the model card. Llama's tokenizer puts the answers' space in front itself.
LLAVA = Form(opening="USER: ", closing="\nASSISTANT:", yes="Yes", no="No")


class TinyLlavaTemplate:
    """See shared.template.Template. The stretches between two pictures are tokenised apart, as in the original.

    image: the id of <image> where it is a token; None: the original cuts the prompt at the tag, as text.
    """

    pictures_first = True

    def __init__(self, tokenizer: Tokenizer, form: Form, image: int | None) -> None:
        self.tokenizer = tokenizer
        self.form = form
        self._image = image
        self.answers: tuple[Sequence[int], Sequence[int]] = (
            (tokenizer.word(form.yes),),
            (tokenizer.word(form.no),),
        )

    @property
    def words(self) -> Sequence[str]:
        """See Template."""
        return self.form.opening, self.form.closing, self.form.yes, self.form.no, ROLE.pattern

    @property
    def reserved(self) -> Collection[int]:
        """See Template."""
        return self.tokenizer.added

    def start(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(self.form.opening + text, begin=True)

    def after_picture(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(text)

    def after_text(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(text, joined=True)

    def user_text(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.apart(text, ROLE, joined=True)

    def question(self, text: str) -> list[int]:
        """See Template."""
        return self.tokenizer.trusted(text + self.form.closing, joined=True)

    def picture(self, number: int, tokens: int) -> list[int]:
        """See Template."""
        return [-1 - number] * tokens

    def raw(self, prompt: str, slots: Sequence[int]) -> list[int]:
        """The ids of a raw prompt as the original makes them. slots: how many tokens each picture takes.

        Raises ConfigError for a prompt that the original refuses, or reads in part.
        """
        if self._image is None:
            chunks = [self.tokenizer.trusted(chunk) for chunk in prompt.split(TAG)]
            if len(chunks) > 1 and prompt.startswith(END):
                raise ConfigError(
                    f"the prompt begins with {END} and has pictures: the original would drop a token at each picture"
                )
        else:
            chunks = [[]]
            for id in self.tokenizer.trusted(prompt, begin=True):
                if id == self._image:
                    chunks.append([])
                else:
                    chunks[-1].append(id)
        if len(chunks) - 1 != len(slots):
            raise ConfigError(
                f"each image needs one tag {TAG} in the prompt; tags: {len(chunks) - 1}, images: {len(slots)}"
            )
        ids = chunks[0]
        for number, (tokens, chunk) in enumerate(zip(slots, chunks[1:], strict=True)):
            ids = [*ids, *self.picture(number, tokens), *chunk]
        return ids
