"""The modules and pages of this repository."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import moderation

REPO = Path(__file__).parents[2]
PACKAGE = Path(moderation.__file__).parent
PATHS = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def name_of(path: Path) -> str:
    """models.fake for moderation/models/fake.py, models for its __init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in PATHS}


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax of a module: many tests read it, and none changes it."""
    return ast.parse(path.read_text("utf-8"))


def pages() -> list[Path]:
    """Markdown files of this checkout, without its environment and caches."""
    folders = [path for path in REPO.iterdir() if path.is_dir() and (path.name[0] != "." or path.name == ".github")]
    return sorted([*REPO.glob("*.md"), *(page for folder in folders for page in folder.rglob("*.md"))])


def prose_lines(page: Path) -> Iterator[tuple[int, str]]:
    """Lines outside of code blocks."""
    code = False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code:
            yield number, line
