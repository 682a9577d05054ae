"""A published tokenizer.json, with one method for the service's words and another for a user's.

`tokenizers` is used without transformers: its `encode` does not change the tokenizer, so several threads may share one.
transformers' wrapper sets padding and truncation on each call.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer as Engine

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint

TOKENIZER = "tokenizer.json"


class Tokenizer:
    """Text to ids. Thread-safe. `size`: all ids are below it. `added`: ids that untrusted text never becomes."""

    def __init__(self, folder: Path) -> None:
        path = folder / TOKENIZER
        published = checkpoint.read_json(path)
        added = published.get("added_tokens")
        plain = {**published, "truncation": None, "padding": None}
        try:
            self._trusted = Engine.from_str(json.dumps(plain))
            # `</s>` is an added token that is not "special", so turning special tokens off would let it through. The
            # tokenizer of untrusted text has no added token at all.
            self._untrusted = Engine.from_str(json.dumps({**plain, "added_tokens": [], "post_processor": None}))
            self.added = frozenset(int(token["id"]) for token in added or ())  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001 - the engine raises bare Exception
            raise ConfigError(f"{path}: not a tokenizer ({error}); fetch it again") from None
        self.size = self._trusted.get_vocab_size(with_added_tokens=True)

    def trusted(self, text: str, *, begin: bool = False) -> list[int]:
        """Ids of the service's own words; added tokens are recognised. begin: with the <s> that starts a chunk."""
        return list(self._trusted.encode(text, add_special_tokens=begin).ids)

    def untrusted(self, text: str) -> list[int]:
        """Ids of a user's words. Everything is plain text, the spelling of an added token too."""
        return list(self._untrusted.encode(text, add_special_tokens=False).ids)

    def word(self, text: str) -> int:
        """The id of a word at the start of an answer. Raises ConfigError when the word takes more than one token."""
        ids = self.trusted(text)
        if len(ids) != 1:
            raise ConfigError(
                f"{TOKENIZER}: the answer {text!r} takes {len(ids)} tokens; it is read from one position's "
                "logits and must be one"
            )
        return ids[0]
