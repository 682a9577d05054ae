"""A published tokenizer.json, with one method for the service's words and another for a user's.

`tokenizers` is used without transformers: its `encode` does not change the tokenizer, so several threads may share one.
transformers' wrapper sets padding and truncation on each call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Engine

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint

TOKENIZER = "tokenizer.json"


class Tokenizer:
    """Text to ids. Thread-safe. `size`: all ids are below it. `added`: ids that untrusted text never becomes.

    Some tokenizers put a space in front of each text. `joined` texts continue the text before them, and get none.
    """

    def __init__(self, folder: Path, published: Mapping[str, object] | None = None, *, name: str = TOKENIZER) -> None:
        """published: what tokenizer.json would hold, for a checkpoint without one. name: the file that errors name.

        Raises ConfigError.
        """
        path = self._path = folder / name
        if published is None:
            published = checkpoint.read_json(path)
        added = published.get("added_tokens")
        plain = {**published, "truncation": None, "padding": None}
        try:
            # Runs of spaces are added tokens in some tokenizers, and words like any other.
            words = [token for token in added or () if token["content"].isspace()]  # type: ignore[attr-defined]
            # `</s>` is an added token that is not "special", so turning special tokens off would let it through. The
            # tokenizer of untrusted text has none of these added tokens at all.
            self._definitions = plain, {**plain, "added_tokens": words, "post_processor": None}
            self._trusted, self._untrusted = map(_engine, self._definitions)
            self.added = frozenset(int(token["id"]) for token in added or () if token not in words)  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001 - the engine raises bare Exception
            raise ConfigError(f"{path}: not a tokenizer ({error}); fetch it again") from None
        self.size = self._trusted.get_vocab_size(with_added_tokens=True)

    def trusted(self, text: str, *, begin: bool = False, joined: bool = False) -> list[int]:
        """Ids of the service's own words; added tokens are recognised. begin: with the <s> that starts a chunk."""
        engine = self._joined[0] if joined else self._trusted
        return list(engine.encode(text, add_special_tokens=begin).ids)

    def untrusted(self, text: str, *, joined: bool = False) -> list[int]:
        """Ids of a user's words. Everything is plain text, the spelling of an added token too."""
        engine = self._joined[1] if joined else self._untrusted
        return list(engine.encode(text, add_special_tokens=False).ids)

    def apart(self, text: str, spellings: re.Pattern[str], *, joined: bool = False) -> list[int]:
        """Ids of a user's words, where each character of what matches becomes tokens of its own.

        For templates whose structure is plain text to the tokenizer: its ids then come from no user's words.
        """
        ids: list[int] = []
        done = 0
        for spelling in spellings.finditer(text):
            for piece in (text[done : spelling.start()], *spelling[0]):
                ids += self.untrusted(piece, joined=joined)
            done = spelling.end()
        return ids + self.untrusted(text[done:], joined=joined)

    def word(self, text: str) -> int:
        """The id of a word at the start of an answer. Raises ConfigError when the word takes more than one token."""
        ids = self.trusted(text)
        if len(ids) != 1:
            raise ConfigError(
                f"{self._path}: the answer {text!r} takes {len(ids)} tokens, and must be one; check that config.json "
                "and the tokenizer's files come from the same checkpoint"
            )
        return ids[0]

    def token(self, name: str) -> int | None:
        """The id of a token by its spelling in the vocabulary; None: there is no such token."""
        id: int | None = self._trusted.token_to_id(name)
        return id

    @cached_property
    def _joined(self) -> tuple[Engine, Engine]:
        """The engines of trusted and untrusted text that continues another."""
        changed = _continued(self._definitions[0])
        if not changed:
            return self._trusted, self._untrusted
        trusted, untrusted = (_engine({**whole, **changed}) for whole in self._definitions)
        return trusted, untrusted


def _continued(definition: Mapping[str, Any]) -> dict[str, object]:
    """What a tokenizer.json needs instead, so that it puts no space in front of a text. Empty: it puts none."""
    changed: dict[str, object] = {}
    normalizer = definition.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    rest = [step for step in steps if step.get("type") != "Prepend"]
    if len(rest) < len(steps):
        changed["normalizer"] = {"type": "Sequence", "normalizers": rest}
    cutter = definition.get("pre_tokenizer") or {}
    cutters = cutter.get("pretokenizers", [cutter] if cutter else [])
    if any(step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never" for step in cutters):
        plain = [{**step, "prepend_scheme": "never"} if step["type"] == "Metaspace" else step for step in cutters]
        changed["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": plain}
    return changed


def _engine(definition: Mapping[str, object]) -> Engine:
    return Engine.from_str(json.dumps(definition))
