"""Prose that users and first readers meet: plain words, and lines of at most 120 columns in Markdown.

It reads Markdown, proto comments, docstrings, raised errors, statuses, help of metrics, events, settings and commands,
manifests, the dashboard, forms of GitHub, and schemas.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import typer
import yaml

from moderation.cli.app import app
from moderation.observability.events import EVENTS
from moderation.settings import fields
from tests.support.repository import PACKAGE, REPO, pages, prose_lines, tree_of

COLUMNS = 120

# A whole word or phrase, and what to write in its place.
BANNED = {
    "afresh": "again",
    "amongst": "among",
    "anew": "again",
    "at it": "the name of what it is",
    "aught": "anything",
    "besides": "also, or: in addition",
    "ere": "before",
    "forthwith": "at once",
    "heard": "name what reaches whom",
    "hears": "name what reaches whom",
    "henceforth": "from now on",
    "hereby": "nothing",
    "herein": "here",
    "hitherto": "until now",
    "in vain": "without success",
    "inasmuch": "because",
    "lane": "assigned partition",
    "lanes": "assigned partitions",
    "leash": "supervisor",
    "lest": "so that ... not",
    "naught": "nothing",
    "nobody may": "no caller may, no process may",
    "notwithstanding": "despite",
    "nought": "nothing",
    "of ours": "our",
    "of theirs": "their",
    "seldom": "rarely",
    "stranger": "caller without credentials",
    "strangers": "callers without credentials",
    "tells": "says, shows or reports",
    "thence": "from there",
    "thereby": "so",
    "therein": "in it",
    "thereof": "of it",
    "thereupon": "then",
    "told": "the name of what was said",
    "upon": "on",
    "vitals": "gauges",
    "whence": "from where",
    "whereby": "by which",
    "wherein": "in which",
    "whereupon": "then",
    "whichever": "the one that",
    "whilst": "while",
    "whoever": "the caller, the reader: name who it is",
    "whosoever": "the caller, the reader: name who it is",
}
# Also not as a subject: "whatever comes next".
SUBJECTS = re.compile(r"(?:^|[.;:,(] *)whatever (?!is\b)\w+s\b", re.IGNORECASE)
WORDS = re.compile(rf"\b({'|'.join(sorted(BANNED, key=len, reverse=True))})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Passage:
    """A piece of prose, and where it stands."""

    place: str
    text: str
    line: int = 0  # of the text's first line; 0: the place says it all

    def where(self, start: int) -> str:
        """The place of the character at `start`."""
        return f"{self.place}:{self.line + self.text.count(chr(10), 0, start)}" if self.line else self.place


def markdown() -> Iterator[Passage]:
    """Without code in backticks: names of files, metrics and events are not prose."""
    for page in pages():
        for number, line in prose_lines(page):
            yield Passage(str(page.relative_to(REPO)), re.sub(r"`[^`]*`", "", line), number)


def proto_comments() -> Iterator[Passage]:
    for path in sorted((REPO / "protos").rglob("*.proto")):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if "//" in line:
                yield Passage(str(path.relative_to(REPO)), line.partition("//")[2], number)


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Each hand-written module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name != "v1":
            yield str(path.relative_to(REPO)), tree_of(path)


def docstrings() -> Iterator[Passage]:
    """Of modules, and of classes and functions with public names."""
    for file, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not isinstance(node, ast.Module) and node.name.startswith("_"):
                continue
            if text := ast.get_docstring(node):
                yield Passage(file, text, node.body[0].lineno)


def error_texts() -> Iterator[Passage]:
    """Constant parts of what is raised."""
    for file, tree in trees():
        for node in ast.walk(tree):
            for part in ast.walk(node) if isinstance(node, ast.Raise) else ():
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield Passage(file, part.value, part.lineno)


def statuses() -> Iterator[Passage]:
    """Constant parts of the texts of refused calls, also of those that a variable holds."""
    builders = {"RefusedError", "exhausted", "forbidden", "invalid", "unauthenticated", "unavailable"}
    for file, tree in trees():
        if not file.startswith("moderation/api/"):
            continue
        nodes = list(ast.walk(tree))
        calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) in builders]
        names = {part.id for call in calls for part in call.args if isinstance(part, ast.Name)}
        assigned = [
            node.value for node in nodes if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in names
        ]
        for part in [
            part for text in (*(text for call in calls for text in call.args), *assigned) for part in ast.walk(text)
        ]:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield Passage(file, part.value, part.lineno)


def metric_help() -> Iterator[Passage]:
    kinds = {"Counter", "Gauge", "Histogram", "FastCounter", "FastHistogram", "Summary", "Info"}
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in kinds:
                for part in node.args[1:2]:
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield Passage(file, part.value, part.lineno)


def events() -> Iterator[Passage]:
    """The meaning of each log event."""
    for event, meaning in EVENTS.items():
        yield Passage(event, meaning)


def operators_files() -> Iterator[Passage]:
    """Comments of manifests and of the image, and the texts of alerts."""
    files = [*(REPO / "deploy").rglob("*.yaml"), REPO / "deploy/image/Dockerfile", REPO / "Makefile"]
    for path in sorted(files):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if text := re.search(r"(?:^|\s)##? (.+)|(?:summary|description): (.+)", line):
                yield Passage(str(path.relative_to(REPO)), text[1] or text[2], number)


def leaves(value: Any, keys: frozenset[str], key: str = "") -> Iterator[str]:
    """Texts under these keys, anywhere in a document."""
    if isinstance(value, str):
        if key in keys:
            yield value
    elif isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else ((key, part) for part in value):
            yield from leaves(part, keys, name)


def dashboard() -> Iterator[Passage]:
    """Titles, descriptions and legends."""
    path = "deploy/observe/dashboard.json"
    content = json.loads((REPO / path).read_text("utf-8"))
    for text in leaves(content, frozenset({"title", "description", "legendFormat"})):
        yield Passage(path, text)


def forms() -> Iterator[Passage]:
    """The forms that GitHub shows."""
    for path in sorted((REPO / ".github").rglob("*.yml")):
        for text in leaves(
            yaml.safe_load(path.read_text("utf-8")), frozenset({"name", "description", "label", "value"})
        ):
            yield Passage(str(path.relative_to(REPO)), text)


def schemas() -> Iterator[Passage]:
    """Descriptions of the topics and of values on them, and of policies."""
    keys = frozenset({"title", "summary", "description"})
    for path in (REPO / "protos/asyncapi.yaml", *REPO.glob("p*/**/*.schema.json")):
        content = yaml.safe_load(path.read_text("utf-8"))  # JSON is YAML
        for text in leaves(content, keys):
            yield Passage(str(path.relative_to(REPO)), text)


def settings() -> Iterator[Passage]:
    for variable, _, field in fields():
        yield Passage(variable, field.description or "")


def commands() -> Iterator[Passage]:
    """Help of each command and of its options."""

    def walk(command: Any, name: str) -> Iterator[Passage]:
        yield Passage(name, command.help or "")
        for option in command.params:
            yield Passage(f"{name} {option.name}", getattr(option, "help", None) or "")
        for child, part in getattr(command, "commands", {}).items():
            yield from walk(part, f"{name} {child}")

    yield from walk(typer.main.get_command(app), "moderation")


SOURCES = {
    source.__name__: source
    for source in (
        markdown,
        proto_comments,
        docstrings,
        error_texts,
        statuses,
        metric_help,
        events,
        operators_files,
        dashboard,
        forms,
        schemas,
        settings,
        commands,
    )
}


def complaints(passage: Passage) -> list[str]:
    """One line for each word that we do not use."""
    lines = [
        f"{passage.where(match.start())}: {match[0]!r}: write: {BANNED[match[0].lower()]}"
        for match in WORDS.finditer(passage.text)
    ]
    lines += [
        f"{passage.where(match.end())}: 'whatever' as a subject: name the thing"
        for match in SUBJECTS.finditer(passage.text)
    ]
    return lines


@pytest.mark.parametrize("source", SOURCES)
def test_words_are_plain(source: str) -> None:
    passages = list(SOURCES[source]())
    assert len(passages) > 20, "the source is not read"
    problems = [line for passage in passages for line in complaints(passage)]
    assert not problems, "\n" + "\n".join(problems)


def test_prose_in_markdown_keeps_to_the_columns() -> None:
    """Tables and lines that hold a link may be longer."""
    problems = [
        f"{page.relative_to(REPO)}:{number}: {len(line)} columns: wrap at {COLUMNS}"
        for page in pages()
        for number, line in prose_lines(page)
        if len(line) > COLUMNS and not line.startswith("|") and "](" not in line and "://" not in line
    ]
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize(
    ("text", "count"),
    [("Built anew upon it.", 2), ("In vain.", 1), ("The renewal, a lanes' end", 1), ("renewed, planes, a tell", 0)],
)
def test_a_banned_word_is_found_as_a_whole_word(text: str, count: int) -> None:
    assert len(complaints(Passage("here", text))) == count


def test_whatever_is_found_as_a_subject() -> None:
    assert complaints(Passage("here", "Whatever comes next is lost."))
    assert not complaints(Passage("here", "It is lost, in whatever order."))
