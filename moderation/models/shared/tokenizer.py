"""A published tokenizer.json, with one way in for our words and another for a user's.

`tokenizers` is used without transformers around it: its `encode` changes nothing in the tokenizer, so that several
threads may share one, where transformers' wrapper sets padding and truncation on each call.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer as Engine

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint

TOKENIZER = "tokenizer.json"


class Tokenizer:
    """Text to ids. `size`: ids are below it. `added`: the ids that no text of a user becomes. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        path = folder / TOKENIZER
        published = checkpoint.read_json(path)
        added = published.get("added_tokens")
        plain = {**published, "truncation": None, "padding": None}
        try:
            self._ours = Engine.from_str(json.dumps(plain))
            # `</s>` is an added token that is not "special": turning special tokens off would let it through, so the
            # user's tokenizer has no added token at all.
            self._theirs = Engine.from_str(json.dumps({**plain, "added_tokens": [], "post_processor": None}))
            self.added = frozenset(int(token["id"]) for token in added or ())  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001 - the engine raises bare Exception
            raise ConfigError(f"{path}: not a tokenizer ({error}); fetch it again") from None
        self.size = self._ours.get_vocab_size(with_added_tokens=True)

    def ours(self, text: str, *, begin: bool = False) -> list[int]:
        """Ids of our own words, in which added tokens are recognised. begin: with the <s> that starts a chunk."""
        return list(self._ours.encode(text, add_special_tokens=begin).ids)

    def theirs(self, text: str) -> list[int]:
        """Ids of a user's words: whatever they spell, plain text."""
        return list(self._theirs.encode(text, add_special_tokens=False).ids)

    def word(self, text: str) -> int:
        """The id of a word as it begins an answer. Raises ConfigError when it takes more than one token."""
        ids = self.ours(text)
        if len(ids) != 1:
            raise ConfigError(
                f"{TOKENIZER}: the answer {text!r} takes {len(ids)} tokens; it is read from one position's "
                "logits and must be one"
            )
        return ids[0]
