"""Mistakes in a policy file, in words for its author: file, line, key, problem, and what to write there.

pydantic says what is wrong with a value. The nodes of the YAML document have its line and the text that stands there.
A policy is the operator's own text, so a mistake may quote it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from moderation.policies.schema import Clause, Example, Policy, PolicyThresholds, Scope

Location = tuple[int | str, ...]  # keys and places in lists, from the root to a value

LONGEST = 60  # characters of a value that is quoted
SHAPES = {
    "id": "lower-case letters, digits and hyphens, beginning with a letter or a digit, at most 63",
    "violates.id": "letters, digits and hyphens, beginning with a letter, at most 32",
    "allows.id": "letters, digits and hyphens, beginning with a letter, at most 32",
    "applies_to.languages": "a BCP 47 tag such as en, de or pt-BR (a primary language has 2 or 3 letters), or '*'",
}
PARTS: Mapping[str, type[BaseModel]] = {
    "": Policy,
    "applies_to": Scope,
    "violates": Clause,
    "allows": Clause,
    "examples": Example,
    "thresholds": PolicyThresholds,
}


def of_validation(path: Path, node: yaml.Node, error: ValidationError) -> list[str]:
    """A line for each mistake. A mistake that only follows from another one is left out."""
    details: list[Any] = error.errors(include_url=False)
    meant = {detail["loc"]: _meant(detail["loc"]) for detail in details if detail["type"] == "extra_forbidden"}
    explained = {(*location[:-1], key) for location, key in meant.items() if key}
    lines = []
    for detail in details:
        location: Location = detail.get("ctx", {}).get("at") or detail["loc"]
        if detail["type"] == "missing" and location in explained:
            continue  # its misspelt key is reported
        if detail["type"] == "too_short" and any(_is_within(other["loc"], location) for other in details):
            continue  # pydantic does not count the members that are wrong
        lines.append(located(path, node, location, _problem(detail, location, node, meant.get(location, ""))))
    return lines


def located(path: Path, node: yaml.Node, location: Location, problem: str) -> str:
    """A mistake as FILE:LINE: KEY: PROBLEM."""
    line, _ = _place(node, location)
    return f"{path}:{line + 1}: {'.'.join(str(part) for part in location) or 'policy'}: {problem}"


def _problem(detail: Mapping[str, Any], location: Location, node: yaml.Node, meant: str) -> str:
    if detail["type"] == "extra_forbidden":
        problem = "there is no such key" + (f"; did you mean {meant}?" if meant else "")
        quoted = any(character in str(location[-1]) for character in " .,")
        return problem + ("; a text that holds a comma must stand in quotes" if quoted else "")
    if detail["type"] == "missing":
        return "this key is missing"
    value = _quoted(node, location)
    if detail["type"] == "string_pattern_mismatch":
        return f"must be {SHAPES['.'.join(part for part in location if isinstance(part, str))]}; it is {value}"
    if detail["type"] == "string_type" and isinstance(detail["input"], bool | int | float):
        return f"must be a text, and YAML reads {value} as another kind of value: put it in quotes"
    if detail["type"] == "too_short":
        return "the list is empty: give at least one"
    message: str = detail["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
    message = message.replace("a valid tuple", "a list").replace("a valid dictionary", "a mapping of keys to values")
    message = message.replace("Input should be", "must be").replace("String should have", "must have")
    return f"{message}; it is {value}" if message.startswith("must be") and value else message


def _meant(location: Location) -> str:
    """The key that a misspelt one resembles; empty if none does."""
    parent = next((part for part in reversed(location[:-1]) if isinstance(part, str)), "")
    keys: Iterable[str] = PARTS[parent].model_fields if parent in PARTS else ()
    return next(iter(difflib.get_close_matches(str(location[-1]), list(keys), n=1)), "")


def _is_within(location: Location, outer: Location) -> bool:
    return len(location) > len(outer) and location[: len(outer)] == outer


def _place(node: yaml.Node, location: Location) -> tuple[int, yaml.Node | None]:
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


def _quoted(node: yaml.Node, location: Location) -> str:
    """What stands in the file; empty if nothing does."""
    _, at = _place(node, location)
    if isinstance(at, yaml.ScalarNode):
        text = at.value if len(at.value) <= LONGEST else f"{at.value[:LONGEST]}..."
        return repr(text) if text != "" else "empty"
    return {"mapping": "a mapping", "sequence": "a list"}.get(getattr(at, "id", ""), "")
