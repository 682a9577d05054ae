"""Helpers that tests share lie in tests/support, not in a test module or in the conftest of another folder."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.repository import REPO

FILES = sorted((REPO / "tests").rglob("*.py"))


def names_in(path: Path) -> Iterator[str]:
    """Full names of what a file imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def misplaced(folder: str, name: str) -> bool:
    """Whether a file in this folder of tests/ may not import this name."""
    module = re.match(r"(tests(?:\.\w+)*?)\.(test_\w+|conftest)\b", name)
    return bool(module) and not (module[2] == "conftest" and module[1] == folder)  # type: ignore[index]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPO)))
def test_no_test_module_is_imported(path: Path) -> None:
    folder = ".".join(path.parent.relative_to(REPO).parts)
    assert [name for name in names_in(path) if misplaced(folder, name)] == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tests.e2e.test_service.look_up", True),
        ("tests.e2e.test_service", True),
        ("tests.conftest.say", True),
        ("tests.e2e.conftest.command", False),
        ("tests.support.service.look_up", False),
    ],
)
def test_imports_of_test_modules_are_recognised(name: str, expected: bool) -> None:
    assert misplaced("tests.e2e", name) == expected
