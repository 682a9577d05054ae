"""H2OVL's tokenizer.model: SentencePiece between added tokens, as the published code's slow tokenizer has it.

SentencePiece puts a "▁" before every text that it is given, so before each stretch between two added tokens. Text that
continues other text must not get one: it is tokenised behind a newline, which is then cut off. A newline is spelt by a
byte, which no other piece contains, so it does not change what follows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field
from sentencepiece import SentencePieceProcessor

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint

MODEL = "tokenizer.model"
CONFIG = "tokenizer_config.json"


class AddedToken(BaseModel):
    """An entry of added_tokens_decoder: found in a text as it stands."""

    content: str = Field(min_length=1)
    lstrip: Literal[False] = False
    rstrip: Literal[False] = False
    single_word: Literal[False] = False


class TokenizerConfig(BaseModel):
    """tokenizer_config.json: the keys that decide ids."""

    tokenizer_class: Literal["LlamaTokenizer"]
    added_tokens_decoder: dict[int, AddedToken] = Field(min_length=1)
    add_bos_token: Literal[False]
    add_eos_token: Literal[False] = False
    legacy: Literal[True] | None = None  # where it is false, only the first stretch gets a "▁"
    sp_model_kwargs: dict[str, object] = Field(default_factory=dict, max_length=0)


class Tokenizer:
    """Text to ids. Thread-safe. `size`: all ids are below it. `added`: ids that untrusted text never becomes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / MODEL
        config = checkpoint.parse(folder / CONFIG, TokenizerConfig)
        self._pieces = _pieces(self._path)
        self._ids = {token.content: id for id, token in config.added_tokens_decoder.items()}
        self.added = frozenset(config.added_tokens_decoder)
        self.size = self._pieces.vocab_size() + len([id for id in self.added if id >= self._pieces.vocab_size()])
        for content, id in self._ids.items():
            if id >= self.size or (id < self._pieces.vocab_size() and content != self._pieces.id_to_piece(id)):
                raise ConfigError(
                    f"{folder}: {CONFIG} has the token {content} as {id}, which does not follow on the "
                    f"{self._pieces.vocab_size()} pieces of {MODEL}; fetch both again"
                )
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._newline = self._encode("\n")

    def token(self, content: str) -> int:
        """The id of an added token. Raises ConfigError when there is none."""
        if content not in self._ids:
            raise ConfigError(f"{self._path.with_name(CONFIG)}: added_tokens_decoder has no {content}")
        return self._ids[content]

    def trusted(self, text: str, *, continued: bool = False) -> list[int]:
        """Ids of the service's own words; added tokens are recognised. continued: the text follows other text."""
        ids: list[int] = []
        for place, stretch in enumerate(self._split.split(text)):
            if place % 2:
                ids.append(self._ids[stretch])
            elif stretch:
                ids += self.continuing(stretch) if continued and place == 0 else self._encode(stretch)
        return ids

    def continuing(self, text: str) -> list[int]:
        """Ids of text that follows other text. Everything is plain text, the spelling of an added token too."""
        return self._encode(f"\n{text}")[len(self._newline) :]

    def word(self, before: str, text: str) -> int:
        """The id of a word right behind other text. Raises ConfigError when the word takes more than one token."""
        context = self._encode(before)
        ids = self._encode(before + text)
        if len(ids) != len(context) + 1 or ids[:-1] != context:
            raise ConfigError(
                f"{self._path}: the answer {text!r} is not one token behind {before!r}; it is read from one "
                "position's logits and must be one"
            )
        return ids[-1]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._pieces.encode(text)
        return ids


def _pieces(path: Path) -> SentencePieceProcessor:
    pieces = SentencePieceProcessor()
    try:
        content = path.read_bytes()
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"is not readable ({error.strerror})"
        raise ConfigError(
            f"{path.parent}: {path.name} {why}; copy it from where the checkpoint was published"
        ) from None
    try:
        pieces.LoadFromSerializedProto(content)
    except RuntimeError as error:
        raise ConfigError(f"{path}: not a SentencePiece model ({error}); fetch it again") from None
    if any("\n" in pieces.id_to_piece(id) for id in range(pieces.vocab_size())):
        raise ConfigError(f"{path}: it has a piece with a newline in it, so it is not this family's tokenizer")
    return pieces
