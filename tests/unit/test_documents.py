"""Links and paths in Markdown lead somewhere, and each module says where it is tested."""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import re
import ssl
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import jwt
import pytest
import yaml
from aiokafka import AIOKafkaProducer, errors

from moderation.settings import KafkaSettings
from tests.support.repository import MODULES, PACKAGE, REPO, pages, prose_lines, tree_of

PAGES = [str(page.relative_to(REPO)) for page in pages()]
# Roots of paths that prose names in backticks.
ROOTS = r"(?:moderation|tests|deploy|protos|policies|\.github)"
LONGEST = 400
PATH = re.compile(rf"{ROOTS}/[\w./-]*\w")


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Targets of links to files and headings of this repository."""
    for number, line in prose_lines(page):
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            if "://" not in target:
                yield number, target


def paths(page: Path) -> Iterator[tuple[int, str]]:
    """Paths in backticks, also those in commands. CHANGELOG names files that are gone."""
    for number, line in prose_lines(page):
        for word in " ".join(re.findall(r"`([^`]+)`", line)).split():
            if PATH.fullmatch(word.rstrip("/")) or (page.parent.name == "moderation" and word.endswith((".py", "/"))):
                yield number, word


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = [line.lstrip("# ") for _, line in prose_lines(page) if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = REPO / name
    for number, target in links(page):
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), f"{name}:{number}: no file {target}"
        if anchor:
            assert anchor in anchors(path), f"{name}:{number}: no heading {target}"


@pytest.mark.parametrize("name", [name for name in PAGES if name != "CHANGELOG.md"])
def test_paths_in_prose_exist(name: str) -> None:
    page = REPO / name
    for number, path in paths(page):
        places = (REPO / path, page.parent / path)
        assert any(place.exists() for place in places), f"{name}:{number}: no file {path}"


def test_pages_are_there() -> None:
    assert len(PAGES) >= 10
    assert sum(len(list(links(REPO / name))) for name in PAGES) > 20
    assert sum(len(list(paths(REPO / name))) for name in PAGES) > 50


def test_hand_written_files_stay_short() -> None:
    """Python and protos, tests included. Generated code is excepted."""
    folders = ("moderation", "tests", "protos", "deploy")
    files = [path for folder in folders for path in (REPO / folder).rglob("*") if path.suffix in (".py", ".proto")]
    assert len(files) > 300
    written = [path for path in files if not path.match("moderation/v1/*.py")]
    lengths = {path: path.read_text("utf-8").count("\n") for path in written}
    assert {str(path.relative_to(REPO)): lines for path, lines in lengths.items() if lines > LONGEST} == {}


def strings() -> set[str]:
    """Constant strings of the package, and f-strings with a space for each value."""
    nodes = [node for path in PACKAGE.rglob("*.py") for node in ast.walk(tree_of(path))]
    plain = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    formatted = {
        "".join(str(part.value) if isinstance(part, ast.Constant) else " " for part in node.values)
        for node in nodes
        if isinstance(node, ast.JoinedStr)
    }
    return plain | formatted


def test_messages_that_the_runbook_quotes_exist() -> None:
    """Three or more plain words in backticks, which are no command."""
    page = (REPO / "deploy/RUNBOOK.md").read_text("utf-8")
    quoted = re.findall(r"`(?:\.\.\. )?((?!moderation |kubectl )[a-z]+(?: [a-z'-]+){2,})(?: \.\.\.)?`", page)
    assert len(quoted) > 3
    logged = strings()
    assert not [message for message in quoted if not any(message in text for text in logged)]


def test_errors_that_the_runbook_names_exist() -> None:
    page = (REPO / "deploy/RUNBOOK.md").read_text("utf-8")
    named = set(re.findall(r"`([A-Z]\w+[a-z](?:Error|Hang))`", page))
    assert len(named) > 4
    source = "\n".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    own = strings() | set(re.findall(r"^class (\w+)", source, re.MULTILINE))
    assert not {
        name for name in named - own if not any(hasattr(room, name) for room in (builtins, errors, json, jwt, ssl))
    }


def rows_of_modules() -> list[tuple[str, str]]:
    """Module or pattern, and the places that test it: the last table of tests/README.md."""
    table = (REPO / "tests/README.md").read_text("utf-8").partition("## Where each module is tested")[2]
    return re.findall(r"^\| `([\w.*]+)` \| (.+) \|$", table, re.MULTILINE)


def lines_of_modules() -> dict[str, list[str]]:
    """The same, with the paths of the places."""
    return {module: re.findall(r"`([^`]+)`", places) for module, places in rows_of_modules()}


def test_producers_learn_that_their_clients_send_less_than_the_topics_take() -> None:
    page = (REPO / "protos/README.md").read_text()
    most = inspect.signature(AIOKafkaProducer).parameters["max_request_size"].default
    assert most == 1 << 20
    assert "clients send 1 MiB at most by default" in page
    assert f"give yours {KafkaSettings().max_message_bytes}" in page


def test_no_module_has_two_lines() -> None:
    modules = [module for module, _ in rows_of_modules()]
    assert modules == sorted(set(modules), key=modules.index)


def test_the_map_has_each_room() -> None:
    page = (REPO / "moderation/README.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `([\w/]+)/` \|", page, re.MULTILINE))
    package = REPO / "moderation"
    rooms = {str(path.parent.relative_to(package)) for path in package.rglob("*.py") if path.parent != package}
    assert listed == rooms


def has_behaviour(module: str) -> bool:
    """Whether it defines a function or a class: a folder's `__init__` may hold a docstring alone."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return any(isinstance(node, kinds) for node in ast.walk(tree_of(MODULES[module])))


def has_test_file(module: str) -> bool:
    """tests/*/<room>/test_<module>.py, where a room within a room may use the folder of the outer one."""
    *rooms, name = module.split(".")
    folders = ["/".join(rooms[:depth]) for depth in range(len(rooms), -1, -1)] if rooms else ["", name]
    return any(
        (REPO / "tests" / storey / folder / f"test_{name}.py").exists()
        for storey in ("unit", "integration", "e2e")
        for folder in folders
    )


def test_each_module_says_where_it_is_tested() -> None:
    lines = lines_of_modules()
    modules = {module for module in MODULES if not module.startswith("v1") and has_behaviour(module)}
    uncovered = {
        module
        for module in modules
        if not has_test_file(module) and not any(fnmatch(module, pattern) for pattern in lines)
    }
    assert not uncovered, f"add a test file, or a line in tests/README.md: {sorted(uncovered)}"


@pytest.mark.parametrize("pattern", lines_of_modules())
def test_a_line_of_the_table_is_needed_and_true(pattern: str) -> None:
    places = lines_of_modules()[pattern]
    assert places
    for place in places:
        assert (REPO / place).exists(), f"tests/README.md: no file {place}"
    assert any(fnmatch(module, pattern) and not has_test_file(module) for module in MODULES), f"{pattern}: not needed"


def targets() -> dict[str, str]:
    """Targets of the Makefile that a person calls, and their help."""
    text = (REPO / "Makefile").read_text("utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    helps = dict(re.findall(r"^([a-z-]+):.*?## (.+)$", text, re.MULTILINE))
    return {target: helps.get(target, "") for target in phony.split()}


def test_make_lists_every_target_with_its_help() -> None:
    listed = subprocess.run(["make", "help"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    assert dict(re.findall(r"^([a-z-]+) +(.+)$", listed, re.MULTILINE)) == targets()
    assert subprocess.run(["make"], cwd=REPO, capture_output=True, text=True, check=True).stdout == listed


def test_hooks_before_a_commit_run_what_lint_runs() -> None:
    rules = (REPO / "Makefile").read_text("utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    lint = re.findall(r"^\t\$\(BIN\)/(.+)$", rules, re.MULTILINE)
    config = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text("utf-8"))
    hooks = [hook["entry"].removeprefix(".venv/bin/") for repo in config["repos"] for hook in repo["hooks"]]
    assert [hook.replace(" --force-exclude", "") for hook in hooks] == [line.replace(" .", "") for line in lint]
