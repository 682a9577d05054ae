"""A policy file as a YAML document: its nodes with their lines, or the mistake that keeps it from being one.

YAML's own words for a mistake are those of a parser. Here they are put into words for an author.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from moderation.errors import cause_of
from moderation.policies.mistakes import Kind, Mistake

QUOTE = "put the text in quotes"
APOSTROPHE = "in single quotes write '' for an apostrophe"
LOST = f"# behind a space begins a comment, and the rest of its line is lost: {QUOTE}"
TAB = "a tab stands in front of the text: indent with spaces"
# What PyYAML says, and what an author can do about it.
MEANINGS = {
    r"mapping values are not allowed": f"a colon with a space behind it stands in a text: {QUOTE}",
    r"unknown escape character|hexdecimal": r"a backslash stands in double quotes: write \\, or use single quotes",
    r"quoted scalar|unexpected end of stream": f"a quote is opened and not closed; {APOSTROPHE}",
    r"expected a single document": "a second document begins here (---): one file holds one policy",
    r"undefined alias|alphabetic or numeric": f"a text begins with * or &, which YAML takes for its own: {QUOTE}",
    r"expected ',' or": f"a bracket is opened and not closed, or a text holds a bracket: close it, or {QUOTE}",
    r"\btag\b": f"a text begins with !, which YAML takes for its own: {QUOTE}",
    r"expected ':'": "a key needs a colon and a space behind it; a text that goes on in the next line is indented",
    r"unhashable|acceptable key": "a key is a list or a mapping, and must be a text",
    r"block (end|mapping|collection)|sequence entries": "the indentation does not fit: entries and keys of one level "
    "have the same number of spaces in front",
}
# What a line looks like that YAML cannot read, where that says more.
LINES = {
    r":\s+\{\{": "this is a template: put the file that is made of it into the folder",
    r"^ *\t": TAB,
    r"^\s*-[^\s-]": "a hyphen in front of an entry needs a space behind it, as in `- {id: A1, text: ...}`",
    r""":\s+("[^"]*"|'[^']*')\s+[^\s#]""": "words follow a closing quote: put all of the text in quotes",
    r":\s+[\[{][^\]}]*[\]}]\s*[^\s,\]}#]": f"a text begins with a bracket, which YAML takes for its own: {QUOTE}",
    r":\s+'[^']*'\w": f"an apostrophe ends a text in single quotes: {APOSTROPHE}",
}
KEYS = ("id", "version", "title", "question", "violates", "thresholds")  # that a policy must have
COMMENT = re.compile(r"[ \t]+#(.*)")
LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # of YAML, by which its marks count lines


@dataclass(frozen=True, slots=True)
class Document:
    """A file that is a mapping of keys to values."""

    path: Path
    text: str
    node: yaml.MappingNode

    def value(self) -> object:
        """What the document holds. Raises yaml.YAMLError, or ValueError for an impossible date."""
        return yaml.SafeLoader("").construct_document(self.node)

    def comment_behind(self, node: yaml.Node) -> str:
        """The comment behind a text without quotes, in the same line; empty if there is none."""
        if not isinstance(node, yaml.ScalarNode) or node.style is not None:
            return ""
        match = COMMENT.match(self.text, node.end_mark.index)
        return match[1].strip() if match else ""


def parse(path: Path) -> Document | Mistake:
    """The document in a file, or the mistake that keeps it from being one."""
    if path.exists() and not path.is_file():
        return _error(path, 1, "this is no file that can be read: delete it")
    try:
        data = path.read_bytes()
    except OSError as error:
        if path.is_symlink() and not path.exists():
            return _error(path, 1, "this link leads nowhere: delete it, or name the policy's file in it")
        return _error(path, 1, f"not readable: {cause_of(error)}")
    start = data[:64]
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) or start.count(0) * 3 > len(start):
        return _error(path, 1, "the file is UTF-16: save it as UTF-8")
    if b"\0" in start:
        return _error(path, 1, "this is no text: save it as a text file in UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _lines_before(data[: error.start].decode("utf-8-sig")) + 1
        shown = data[error.start : error.start + 1].decode("latin-1")
        return _error(path, line, f"the file is not UTF-8 ({shown!r} in Latin-1): save it as UTF-8")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        return _syntax(path, text, error)
    except RecursionError:
        return _error(path, 1, "lists or mappings are nested too deeply in it: this is no policy")
    if node is None:
        return _error(path, 1, "the file is empty: write a policy in it, or delete it")
    if not isinstance(node, yaml.MappingNode):
        return _error(path, 1, "a policy is a mapping of keys to values, such as `title: Lakes`")
    keys = {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
    if {"apiVersion", "kind"} <= keys:
        return _error(path, 1, "this is a manifest of Kubernetes and no policy: move it out of the folder of policies")
    if keys and not any(difflib.get_close_matches(str(key).casefold(), KEYS) for key in keys):
        return _error(path, 1, f"this is no policy, which has keys such as {', '.join(KEYS)}: move it elsewhere")
    return Document(path, text, node)


def given_twice(node: yaml.Node) -> Iterator[tuple[int, str, int]]:
    """Line, name and first line of each key that is given twice: YAML would keep the last one, and weaken a policy.

    Raises RecursionError for an alias that contains itself.
    """
    for mapping in _nodes(node):
        if isinstance(mapping, yaml.MappingNode):
            seen: dict[Any, int] = {}
            for key, _ in mapping.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        yield key.start_mark.line + 1, str(key.value), seen[key.value]
                    seen.setdefault(key.value, key.start_mark.line + 1)


def _nodes(root: yaml.Node) -> Iterator[yaml.Node]:
    """Every node below a node, and itself, in the order of the file. A node that aliases repeat comes once.

    Raises RecursionError for an alias that contains itself.
    """
    seen: set[int] = set()
    around: set[int] = set()  # the nodes that hold the present one

    def walk(node: yaml.Node) -> Iterator[yaml.Node]:
        if id(node) in around:
            raise RecursionError
        if id(node) in seen:
            return
        seen.add(id(node))
        yield node
        around.add(id(node))
        for child in node.value if isinstance(node, yaml.CollectionNode) else ():
            for part in child if isinstance(child, tuple) else (child,):
                yield from walk(part)
        around.remove(id(node))

    yield from walk(root)


def of_value(document: Document, error: Exception) -> Mistake:
    """The mistake in a document whose values YAML cannot construct."""
    if isinstance(error, yaml.YAMLError):
        return _syntax(document.path, document.text, error)
    scalars = (node for node in _nodes(document.node) if isinstance(node, yaml.ScalarNode))
    line = next((node.start_mark.line + 1 for node in scalars if not _is_possible(node)), 1)
    return _error(document.path, line, "YAML reads a date or a number here, and an impossible one: put it in quotes")


def _is_possible(node: yaml.ScalarNode) -> bool:
    try:
        yaml.SafeLoader("").construct_document(node)
    except ValueError:
        return False
    return True


def _syntax(path: Path, text: str, error: yaml.YAMLError) -> Mistake:
    if isinstance(error, yaml.reader.ReaderError):
        line = _lines_before(text[: error.position]) + 1
        return _error(path, line, f"a control character (U+{ord(text[error.position]):04X}) stands here: delete it")
    opened = getattr(error, "context_mark", None)  # where what is broken begins
    mark = getattr(error, "problem_mark", None) or opened
    line, column = (mark.line + 1, mark.column) if mark else (1, 0)
    said = f"{getattr(error, 'context', None) or ''} {getattr(error, 'problem', None) or ''}".strip()
    lines = [*LINE_END.split(text), ""]
    at, above = lines[line - 1], lines[line - 2] if line > 1 else ""
    if words := _of_line(at, column, said):
        return _error(path, line, words)
    if re.search(r"\S\s+#", at[:column]):
        return _error(path, line, LOST)
    if re.search(r"\S\s+#", above) and ("flow" in said or "expected ':'" in said):
        return _error(path, line - 1, LOST)
    if "got ':'" in said and opened and opened.line + 1 == line:
        return _error(path, line, f"a colon with a space behind it stands in a text: {QUOTE}")
    if opened and re.search("quoted scalar|flow|simple key", said):
        line = opened.line + 1
    meaning = next((words for pattern, words in MEANINGS.items() if re.search(pattern, said)), said)
    return _error(path, line, f"not readable as YAML: {meaning or 'unknown construct'}")


def _lines_before(text: str) -> int:
    return sum(1 for _ in LINE_END.finditer(text))


def _of_line(at: str, column: int, said: str) -> str:
    """What is wrong with the line that YAML cannot read, where its form says it; otherwise empty."""
    if (sign := re.search(r"found character '(.+?)' that cannot start any token", said)) and sign[1] != r"\t":
        return f"a text begins with {sign[1]}, which YAML takes for its own: {QUOTE}"
    if re.match(r"\s+[\w-]+$", at[:column]) and "mapping values" in said:
        return "this key has more spaces in front than the key above: keys of one level have the same number"
    return next((words for pattern, words in LINES.items() if re.search(pattern, at)), TAB if sign else "")


def _error(path: Path, line: int, text: str) -> Mistake:
    return Mistake(Kind.ERROR, path, line, text)
