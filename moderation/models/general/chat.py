"""The published chat template: rendered once with a placeholder for the words of the user's turn, and taken apart.

A chat template is a program in Jinja that a checkpoint brings along. It never sees a user's words. It writes the words
around a turn, and this module says which those are:

    head, with the marks of the pictures | the words of the turn | tail, up to where the answer begins
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from moderation.errors import ConfigError
from moderation.models.shared import checkpoint

JINJA = "chat_template.jinja"
# Of a checkpoint's files, the ones that may hold the template, the first that does counts: as transformers reads them.
IN_JSON = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
# What transformers gives a template beside the messages.
GIVEN: Mapping[str, object] = {"tools": None, "documents": None, "add_generation_prompt": True}
# What stands for the words of a turn. No template writes or changes these characters of Unicode's private use.
TURNS = ("\ue100first\ue101", "\ue100second\ue101", "\ue100third\ue101")


@dataclass(frozen=True, slots=True)
class Frame:
    """What the template writes around the words of a user's turn with so many pictures."""

    pieces: tuple[str, ...]  # of the head: before, between and behind the marks of the pictures
    tail: str


@dataclass(frozen=True, slots=True)
class Borders:
    """What the template writes between two turns: where a user's ends, and where the next one begins."""

    answer: str
    user: str


class ChatTemplate:
    """A checkpoint's template. image: the mark that it writes in a picture's place. Thread-safe."""

    def __init__(self, folder: Path, image: str, special: Mapping[str, object]) -> None:
        """special: what templates may read beside the messages, such as bos_token. Raises ConfigError."""
        self.path, source = read(folder)
        self._image = image
        self._special = special
        try:
            self._compiled = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ConfigError(f"{self.path}: the chat template is not one ({error}); fetch it again") from None
        self.frame = lru_cache(maxsize=64)(self._frame)

    def check(self) -> None:
        """Raises ConfigError unless pictures stand before the words, and what follows the words is always the same."""
        for pictures in range(3):
            self.frame(pictures)

    @cached_property
    def borders(self) -> Borders:
        """Raises ConfigError where the template cannot write a turn of the assistant."""
        roles = ("user", "assistant", "user")
        turns = [
            {"role": role, "content": [{"type": "text", "text": mark}]} for role, mark in zip(roles, TURNS, strict=True)
        ]
        text = self._render(turns)
        _, answer, user, _ = self._split(text, TURNS)
        return Borders(answer, user)

    def _frame(self, pictures: int) -> Frame:
        parts = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": TURNS[0]}]
        head, tail = self._split(self._render([{"role": "user", "content": parts}]), TURNS[:1])
        pieces = tuple(head.split(self._image))
        if len(pieces) != pictures + 1 or self._image in tail:
            self._refuse(
                f"does not write {self._image} once for each of {pictures} pictures, before the words of their turn"
            )
        if pictures and tail != self.frame(0).tail:
            self._refuse("writes other words behind a turn when the turn has pictures")
        return Frame(pieces, tail)

    def _render(self, messages: Sequence[Mapping[str, object]]) -> str:
        try:
            return self._compiled.render(messages=messages, **GIVEN, **self._special)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            self._refuse(f"fails with a turn of pictures and a text ({error})")

    def _split(self, text: str, marks: Sequence[str]) -> list[str]:
        """The text around the marks, which must be there once each, in order."""
        pieces = []
        for mark in marks:
            before, found, text = text.partition(mark)
            if not found or mark in text:
                self._refuse("does not write the words of each turn once, in order and unchanged")
            pieces.append(before)
        return [*pieces, text]

    def _refuse(self, why: str) -> NoReturn:
        raise ConfigError(f"{self.path}: the chat template {why}, so this service cannot use it")


def read(folder: Path) -> tuple[Path, str]:
    """(file, source) of the template. Raises ConfigError where there is none."""
    if (path := folder / JINJA).exists():
        try:
            return path, path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}); fetch it again") from None
    for name in IN_JSON:
        if (path := folder / name).exists():
            source = checkpoint.read_json(path).get("chat_template")
            if isinstance(source, list):  # of several, by name
                named = (entry for entry in source if isinstance(entry, dict) and entry.get("name") == "default")
                source = next(named, {}).get("template")
            if isinstance(source, str):
                return path, source
    raise ConfigError(
        f"{folder}: there is no chat template, neither {JINJA} nor a key chat_template in {', '.join(IN_JSON)}; this "
        "service does not guess how the model was trained to be asked"
    )


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}, which marks an assistant's words for a trainer and writes nothing."""

    tags = {"generation"}  # noqa: RUF012 - as in the base class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    """What transformers gives a template, but for `strftime_now`: a score must not depend on the day."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    raises: Callable[[str], NoReturn] = _raise
    environment.globals["raise_exception"] = raises
    return environment


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
