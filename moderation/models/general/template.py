"""A chat template on its tokenizer: the ids around a user's words, and the proof that these never become structure."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from moderation.errors import ConfigError, PostError
from moderation.models.general import spelling
from moderation.models.general.chat import ChatTemplate
from moderation.models.general.processor import Processor
from moderation.models.shared.tokenizer import Tokenizer
from moderation.types import Reason

YES, NO = ("Yes", "yes", "YES"), ("No", "no", "NO")


class GeneralTemplate:
    """The prompts of a checkpoint. Thread-safe.

    answers: the ids of every spelling of Yes, and of No, that is one token. slot: the id whose place a picture's
    features take.
    """

    pictures_first = True

    def __init__(self, folder: Path, processor: Processor, slot: int) -> None:
        """Raises ConfigError where a user's words could become structure, or the prompt cannot be taken apart."""
        self.slot = slot
        self._folder = folder
        self.chat = ChatTemplate(folder, processor.mark, processor.special)
        self.chat.check()
        published: dict[str, Any] = json.loads(processor.tokenizer.backend_tokenizer.to_str())
        if published["model"].get("dropout"):
            raise ConfigError(f"{folder}: its tokenizer cuts words at random (dropout), so no score could be repeated")
        self.tokenizer = Tokenizer(folder, published)
        self._mark = processor.mark
        self._begin = not self._begins_itself(processor)
        self.answers: tuple[Sequence[int], Sequence[int]] = (self._spellings(YES), self._spellings(NO))
        plain = spelling.plain_ids(published)
        frame = self.chat.frame(1)
        written = {id for text in ("".join(frame.pieces), frame.tail) for id in self.tokenizer.trusted(text)}
        written |= {self.slot, *self.head((), ""), *self.after_text(self.chat.frame(0).tail)}
        structure = (written & self.tokenizer.added) - spelling.blanks(published)
        exposed = structure & plain  # letters could become these, too
        self.reserved: Collection[int] = (self.tokenizer.added - plain) | exposed
        self._borders = self._unproven()
        self._spelled = spelling.pattern(
            [*self._borders, *(token["content"] for token in published["added_tokens"] if token["id"] in exposed)]
        )
        self._prove(published, exposed)

    @property
    def words(self) -> Sequence[str]:
        """All that decides ids and stands in no file."""
        return (*YES, *NO, self._spelled.pattern, *self.chat.frame(1).pieces, self.chat.frame(1).tail)

    def head(self, pictures: Sequence[str], text: str) -> list[int]:
        """The beginning of the prompt, and the service's first words behind the pictures.

        pictures: what the processor writes in the place of each. Token j of picture i is -1 - i. Raises PostError.
        """
        try:
            pieces = self.chat.frame(len(pictures)).pieces
        except ConfigError:  # at start, up to two were right
            raise PostError(Reason.TOO_MANY_IMAGES, f"the chat template takes no {len(pictures)} pictures") from None
        whole = pieces[0] + "".join(words + piece for words, piece in zip(pictures, pieces[1:], strict=True))
        ids = self.tokenizer.trusted(whole + text, begin=self._begin)
        return self._numbered(ids, pictures)

    def rendered(self, pictures: int, text: str) -> str:
        """A whole prompt as the published processor takes it."""
        frame = self.chat.frame(pictures)
        return self._mark.join(frame.pieces) + text + frame.tail

    @property
    def begin(self) -> bool:
        """Whether the tokenizer, and not the template, writes the token that begins a prompt."""
        return self._begin

    def after_text(self, text: str) -> list[int]:
        """The service's words behind a user's words."""
        return self.tokenizer.trusted(text, joined=True)

    def user_text(self, text: str) -> list[int]:
        """A user's words. The spelling of an added token, or of the template's words, stays plain text."""
        ids = self.tokenizer.apart(text, self._spelled, joined=True)
        if any(spelling.contains(ids, border) for border in self._borders.values()):
            raise PostError(Reason.MODEL_FAILED, "words of the template have come out of the user's text")
        return ids

    def question(self, text: str) -> list[int]:
        """A policy's words, and the end of the prompt up to where the answer begins."""
        return self.tokenizer.trusted(text + self.chat.frame(0).tail, joined=True)

    def _numbered(self, ids: list[int], pictures: Sequence[str]) -> list[int]:
        """The ids with -1 - i for each slot of picture i."""
        counts = [self.tokenizer.trusted(words, joined=True).count(self.slot) for words in pictures]
        if ids.count(self.slot) != sum(counts):
            raise PostError(Reason.MODEL_FAILED, f"the prompt has {ids.count(self.slot)} image slots for {counts}")
        owners = (-1 - number for number, count in enumerate(counts) for _ in range(count))
        return [next(owners) if id == self.slot else id for id in ids]

    def _begins_itself(self, processor: Processor) -> bool:
        """Whether the template writes the first token, as transformers decides it."""
        first = processor.special.get("bos_token")
        return isinstance(first, str) and self.chat.frame(0).pieces[0].startswith(first)

    def _spellings(self, words: Sequence[str]) -> list[int]:
        """The ids of every spelling that is one token, the usual one first."""
        ids: list[int] = []
        for word in words:
            for made in (self.tokenizer.trusted(word), *(self.after_text(text) for text in (word, f" {word}"))):
                if len(made) == 1 and made[0] not in ids and made[0] not in self.tokenizer.added:
                    ids += made
        if not ids:
            raise ConfigError(
                f"{self._folder}: its tokenizer has no token for the answer {words[0]}, so no score is read"
            )
        return ids

    def _unproven(self) -> dict[str, list[int]]:
        """Borders between turns that plain words alone mark, and the ids of these words."""
        borders = self.chat.borders
        texts = {borders.answer, borders.user, self.chat.frame(0).tail}
        return {
            text: self.after_text(spelling.words(text))
            for text in sorted(texts)
            if not any(id in self.reserved for id in self.after_text(text))
        }

    def _prove(self, published: dict[str, Any], exposed: Collection[int]) -> None:
        """Raises ConfigError unless a user's words can become no border, no picture and no token of the template."""
        path = self.chat.path
        if self.slot not in self.tokenizer.added:
            self._refuse("a picture's token is a word like any other, which users can write")
        if exposed and not spelling.is_faithful(published):
            shown = next(token["content"] for token in published["added_tokens"] if token["id"] in exposed)
            self._refuse(f"its tokenizer rewrites texts, and makes the template's token {shown} of plain text")
        for border, ids in self._borders.items():
            shown = spelling.words(border)
            if not shown:
                self._refuse(f"only white space is between two turns of {path.name}, which users can write")
            if not spelling.is_faithful(published):
                self._refuse(f"{path.name} marks a turn by the words {shown!r} alone, and the tokenizer rewrites texts")
            if spelling.contains(self.tokenizer.apart(shown, self._spelled, joined=True), ids):
                self._refuse(f"{path.name} marks a turn by {shown!r}, whose tokens are those of single letters")

    def _refuse(self, why: str) -> None:
        raise ConfigError(
            f"{self._folder}: a user's words could become structure of the prompt: {why}; use a checkpoint whose chat "
            "template ends turns with tokens of their own"
        )
