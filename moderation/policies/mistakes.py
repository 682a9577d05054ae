"""Mistakes in a policy file, in words for its author: file, line, key, problem, and what to write there.

pydantic says what is wrong with a value. The nodes of the YAML document have its line and the text that stands there.
A policy is the operator's own text, so a mistake may quote it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from moderation.policies.schema import AttackLimits, Clause, Example, Policy, PolicyThresholds, Scope

Location = tuple[int | str, ...]  # keys and places in lists, from the root to a value

ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
LONGEST = 60  # characters of a value that is quoted
SHAPES = {
    "id": "lower-case letters, digits and hyphens, beginning with a letter or a digit, at most 63",
    "violates.id": "letters, digits and hyphens, beginning with a letter, at most 32",
    "allows.id": "letters, digits and hyphens, beginning with a letter, at most 32",
}
# What authors write for the names of keys and values.
SYNONYMS = {
    "name": "title",
    "description": "question",
    "rules": "violates",
    "forbidden": "violates",
    "exceptions": "allows",
    "allowed": "allows",
    "scope": "applies_to",
    "lang": "languages",
    "language": "languages",
    "terms": "definitions",
    "reject": "remove",
    "delete": "remove",
    "flag": "review",
    "active": "live",
    "enabled": "live",
    "on": "live",
    "yes": "live",
    "true": "live",
    "off": "draft",
    "no": "draft",
    "false": "draft",
    "disabled": "draft",
    "inactive": "draft",
    "block": "remove",
    "ban": "remove",
    "skip": "allow",
    "ignore": "allow",
    "pass": "allow",
    "hold": "review",
    "queue": "review",
    "moderate": "medium",
    "urgent": "critical",
    "picture": "image",
    "pictures": "image",
    "photo": "image",
}
# What stands behind a key, to copy.
FORMS = {
    "version": "version: 1",
    "title": "title: Lakes",
    "question": "question: Does this post mention a lake?",
    "violates": "violates: [{id: A1, text: mentions a lake}]",
    "allows": "allows: [{id: A0, text: mentions the sea}]",
    "examples": "examples: [{text: I saw a lake, label: A1}]",
    "thresholds": "thresholds: {review: 0.5, remove: 0.9}",
    "definitions": "definitions: {lake: water with a shore}",
    "applies_to": "applies_to: {languages: [en]}",
    "review": "review: 0.5",
    "remove": "remove: 0.9",
    "text": "text: mentions a lake",
    "label": "label: A1",
    "attack": "attack: {max_flip_rate: 0.05}",
    "max_flip_rate": "max_flip_rate: 0.05",
    "clause": "{id: A1, text: mentions a lake}",
    "example": "{text: I saw a lake, label: A1}",
}
NUMBERS = ("thresholds", "attack")  # keys whose values are numbers from 0 to 1
ITEMS = {"violates": "clause", "allows": "clause", "examples": "example"}
PARTS: Mapping[str, type[BaseModel]] = {
    "": Policy,
    "applies_to": Scope,
    "violates": Clause,
    "allows": Clause,
    "examples": Example,
    "thresholds": PolicyThresholds,
    "attack": AttackLimits,
}


class Kind(StrEnum):
    """Whether a role starts with a mistake."""

    ERROR = "error"  # no role starts
    WARNING = "warning"  # roles start


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake of an author. `str` gives FILE:LINE: TEXT, for a warning FILE:LINE: warning: TEXT.

    Of a folder it gives FOLDER: TEXT.
    """

    kind: Kind
    file: Path  # or the folder, for a mistake of the whole set
    line: int  # from 1; 0: of the folder
    text: str  # the key, what is wrong with it, and what to write

    def __str__(self) -> str:
        warning = "warning: " if self.kind is Kind.WARNING else ""
        return f"{self.file}:{f'{self.line}:' if self.line else ''} {warning}{self.text}"


def of_validation(path: Path, node: yaml.MappingNode, error: ValidationError) -> list[Mistake]:
    """A mistake for each detail. One that only follows from another is left out."""
    details: list[Any] = error.errors(include_url=False)
    meant = {detail["loc"]: _meant(detail["loc"]) for detail in details if detail["type"] == "extra_forbidden"}
    explained = {(*location[:-1], key) for location, key in meant.items() if key}
    mistakes: list[Mistake] = []
    for detail in details:
        location: Location = detail.get("ctx", {}).get("at") or detail["loc"]
        if detail["type"] == "missing" and location in explained:
            continue  # its misspelt key is reported
        if detail["type"] == "too_short" and any(_is_within(other["loc"], location) for other in details):
            continue  # pydantic does not count the members that are wrong
        if detail["type"] == "invalid_key" or location[-1:] == ("[key]",):
            mistakes += _of_keys(path, node, location)
            continue
        text = _problem(detail, location, node, meant.get(location, ""))
        mistakes.append(located(path, node, location, text))
    return mistakes


def _of_keys(path: Path, node: yaml.MappingNode, location: Location) -> Iterator[Mistake]:
    """The keys that YAML reads as another kind of value."""
    outer = location[: -2 if location[-1] == "[key]" else -1]
    _, at = place(node, outer)
    for key, value in at.value if isinstance(at, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":str"):
            problem = _no_such_key((*outer, key.value), value, "")
            if not problem or "keys here" in problem:
                problem = f"YAML reads the key {key.value!r} as another kind of value: put it in quotes"
            yield Mistake(Kind.ERROR, path, key.start_mark.line + 1, f"{named((*outer, key.value))}: {problem}")


def of_version(path: Path, node: yaml.MappingNode) -> Iterator[Mistake]:
    """A version that YAML reads as another number than the author: 010 is 8."""
    _, at = place(node, ("version",))
    if isinstance(at, yaml.ScalarNode) and at.tag.endswith(":int") and not re.fullmatch(r"-?(0|[1-9]\d*)", at.value):
        read = yaml.SafeLoader("").construct_document(at)
        plain = re.sub(r"\D", "", at.value).lstrip("0") or "1"
        yield located(path, node, ("version",), f"YAML reads {at.value!r} as {read}: write {plain}")


def of_names(path: Path, node: yaml.MappingNode) -> Iterator[Mistake]:
    """What the file's own name, and the files beside it, say otherwise."""
    id, golden = (place(node, (key,))[1] for key in ("id", "golden"))
    if (
        isinstance(id, yaml.ScalarNode)
        and id.tag.endswith(":str")
        and id.value.strip() != path.stem
        and ID.fullmatch(id.value.strip())
    ):
        write = f"name the file {id.value.strip()}.yaml"
        write += f", or write id: {path.stem}" if ID.fullmatch(path.stem) else ""
        yield located(path, node, ("id",), f"must be the file's name, {path.stem}: {write}")
    # Roles need no golden set, so whether the file exists is a matter of `policies check`.
    named = golden.value if isinstance(golden, yaml.ScalarNode) and golden.tag.endswith(":str") else ""
    if Path(named).name != named:
        yield located(path, node, ("golden",), "must be the name of a file beside the policy, without a folder")


def located(
    path: Path, node: yaml.Node, location: Location, problem: str, *, kind: Kind = Kind.ERROR, more: int = 0
) -> Mistake:
    """A mistake at a value, as KEY: PROBLEM. more: lines below the value's first."""
    line, _ = place(node, location)
    return Mistake(kind, path, line + 1 + more, f"{named(location)}: {problem}")


def named(location: Location) -> str:
    """The place of a value for an author, who counts from 1: `violates, clause 2, text`."""
    words: list[str] = []
    for part in location:
        if isinstance(part, int):
            words.append(f"{ITEMS.get(words[-1] if words else '', 'entry')} {part + 1}")
        elif words and not isinstance(location[location.index(part) - 1], int):
            words[-1] += f".{part}"
        else:
            words.append(part)
    return ", ".join(words) or "policy"


def _problem(detail: Mapping[str, Any], location: Location, node: yaml.Node, meant: str) -> str:
    kind: str = detail["type"]
    _, at = place(node, location)
    value = _quoted(at)
    if kind == "extra_forbidden":
        return _no_such_key(location, at, meant)
    if kind == "missing":
        return f"this key is missing: write {_form(location) or 'one'}"
    if kind == "too_short":
        return "the list is empty: give at least one"
    if kind == "tuple_type" and not (isinstance(at, yaml.ScalarNode) and at.value == ""):
        form = FORMS.get(str(location[-1]), "").partition(": ")[2]
        return f"must be a list, as in {form or f'[{at.value}]' if isinstance(at, yaml.ScalarNode) else form or '[a]'}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"must be a mapping of keys to values, as in `{_form(location)}`; it is {value}"
    if isinstance(at, yaml.ScalarNode) and (problem := _of_scalar(detail, location, at)):
        return problem
    if kind == "string_type":
        return f"must be one text, and YAML reads {value}: put the text in quotes"
    message: str = detail["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
    message = message.replace("Input should be", "must be").replace("String should have", "must have")
    return f"{message}; it is {value}" if message.startswith("must be") and value else message


def _of_scalar(detail: Mapping[str, Any], location: Location, at: yaml.ScalarNode) -> str:
    """What is wrong with a text or a number, and what to write; empty where pydantic's words will do."""
    kind, value = detail["type"], _quoted(at)
    if at.value == "" and at.style is None:
        return "there is no value behind the key: write one, or delete the key"
    if kind == "string_too_short":
        return "the text is empty: write one, or delete the key"
    if kind == "string_type":
        return f"must be a text, and YAML reads {value} as another kind of value: put it in quotes"
    if kind == "string_pattern_mismatch":
        shape = SHAPES[".".join(part for part in location if isinstance(part, str))]
        return f"must be {shape}; it is {value}{_slug(location, at)}"
    if kind in ("literal_error", "enum"):
        return f"must be {detail['ctx']['expected']}; it is {value}{_write(detail['ctx']['expected'], at.value)}"
    if kind == "less_than" and at.value == "1":
        return "must be below 1: no answer has all of the softmax, so every post would be UNDETERMINED; it is '1'"
    if location[0] in NUMBERS and len(location) > 1:
        return f"{_number(at.value, FORMS.get(str(location[-1]), 'mass: 0.5').partition(' ')[2])}; it is {value}"
    if location == ("version",) and kind != "less_than_equal":
        return f"must be a whole number from 1 on, as in `version: 2`; it is {value}"
    return ""


def _no_such_key(location: Location, at: yaml.Node | None, meant: str) -> str:
    key = str(location[-1])
    is_bare = isinstance(at, yaml.ScalarNode) and at.value == "" and at.style is None
    if is_bare and location[0] in NUMBERS and key.isdigit():
        return f"there is no such key; a number has a point and no comma: write 0.{key}"
    if is_bare and len(location) > 1:
        return "there is no such key; a text that holds a comma must stand in quotes"
    if meant:
        return f"there is no such key; did you mean {meant}?"
    return f"there is no such key; the keys here are {', '.join(_keys(location))}" if _keys(location) else ""


def _form(location: Location) -> str:
    """What may be written at a place; empty if nothing is known."""
    if isinstance(location[-1], int):
        return FORMS.get(ITEMS.get(str(location[-2]), ""), "")
    return FORMS.get(location[-1], f"{location[-1]}: A1" if len(location) > 1 else "")


def _slug(location: Location, at: yaml.Node | None) -> str:
    """An id that resembles what stands in the file."""
    if location[-1:] != ("id",) or not isinstance(at, yaml.ScalarNode):
        return ""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", at.value).strip("-")
    slug = slug.lower()[:63] if location == ("id",) else slug[:32]
    return f": write {slug}" if slug and slug != at.value else ""


def _keys(location: Location) -> list[str]:
    parent = next((part for part in reversed(location[:-1]) if isinstance(part, str)), "")
    return list(PARTS[parent].model_fields) if parent in PARTS else []


def _number(text: str, usual: str) -> str:
    """What a probability must be, and what the author has probably meant."""
    must, such = "must be a number from 0 to 1", f"must be a number from 0 to 1, such as {usual}"
    plain = text.strip().rstrip("%").replace(",", ".").strip()
    try:
        number = float(plain)
    except ValueError:
        return such
    if not math.isfinite(number) or number < 0:
        return such
    if "%" in text or number > 10:
        number /= 100
    return f"{must}: write {number:.6g}" if number <= 1 else such


def _write(expected: str, text: str) -> str:
    """The allowed value that a wrong one resembles."""
    allowed = re.findall(r"'(\w+)'", expected)
    word = text.strip().casefold()
    close = [word] if word in allowed else difflib.get_close_matches(word, allowed, n=1, cutoff=0.7)
    close = close or [value for value in [SYNONYMS.get(word)] if value in allowed]
    return f": write {close[0]}" if close else ""


def _meant(location: Location) -> str:
    """The key that a misspelt one resembles; empty if none does."""
    keys = _keys(location)
    word = str(location[-1]).strip().casefold().replace("-", "_").replace(" ", "_")
    if word in keys:
        return word
    close = difflib.get_close_matches(word, keys, n=1) or [key for key in [SYNONYMS.get(word)] if key in keys]
    inner = [
        f"{part}.{word}"
        for part in ("applies_to", "thresholds", "attack")
        if len(location) == 1 and word in PARTS[part].model_fields
    ]
    return next(iter(inner or close), "")


def _is_within(location: Location, outer: Location) -> bool:
    return len(location) > len(outer) and location[: len(outer)] == outer


def place(node: yaml.Node, location: Location) -> tuple[int, yaml.Node | None]:
    """Line, from 0, and node of a value. If its key is missing: the line of the mapping that lacks it, and None."""
    line = node.start_mark.line
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == part), None)
            if pair is None:
                return line, None
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return line, node


def _quoted(at: yaml.Node | None) -> str:
    """What stands in the file; empty if nothing does."""
    if isinstance(at, yaml.ScalarNode):
        text = at.value if len(at.value) <= LONGEST else f"{at.value[:LONGEST]}..."
        return repr(text) if text != "" else "empty"
    return {"mapping": "a mapping", "sequence": "a list"}.get(getattr(at, "id", ""), "")
