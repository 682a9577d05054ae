"""What `moderation model list` says of the published checkpoints, against their networks at full size."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from moderation import models
from moderation.bench import memory
from moderation.cli.app import app
from moderation.models.contract import Kind, Published
from tests.support.full_size import BUILD, ROUNDED, SHOWN, full_size, numbers
from tests.support.repository import REPO

ROWS = {row.name: row for _, row in models.published()}
KINDS = {kind.name: kind for kind in models.kinds()}
A_PICTURE = Image.new("RGB", (640, 480))


def test_every_family_has_rows_and_every_row_is_built() -> None:
    assert {family for family, _ in models.published()} == models.FAMILIES.keys()
    assert ROWS.keys() == BUILD.keys()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_figures_are_those_of_the_network(row: Published) -> None:
    whole = full_size(row.name)
    assert row.parameters == numbers(whole.network) + whole.unread
    assert row.weight_bytes == whole.weight_bytes
    assert row.context == whole.context
    (picture,) = whole.pictures([A_PICTURE])
    assert row.image_tokens == picture.tokens + whole.frame


@pytest.mark.parametrize("name", SHOWN)
def test_the_files_have_the_size_that_the_hub_shows(name: str) -> None:
    assert ROWS[name].weight_bytes == pytest.approx(sum(SHOWN[name]), abs=ROUNDED * len(SHOWN[name]))


def test_every_row_of_the_hub_has_a_size_that_it_shows() -> None:
    assert SHOWN.keys() == {name for name in ROWS if "/" in name}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_memory_is_that_of_a_step(row: Published) -> None:
    whole = full_size(row.name)
    needed = memory.of_step(whole.network, whole.pictures([A_PICTURE]))
    assert needed.weights == 2 * numbers(whole.network)
    assert row.memory_bytes == pytest.approx(needed.total, abs=5_000_000), f"{needed.total:,} bytes"


def test_every_row_says_what_was_verified_and_what_was_not() -> None:
    for row in ROWS.values():
        assert "original code" in row.verified
        assert "published" in row.unverified
        assert "accuracy" in row.unverified


def test_the_list_is_text_for_people_and_json_for_programs() -> None:
    printed = CliRunner().invoke(app, ["model", "list"], env={"COLUMNS": "40"})
    listed = CliRunner().invoke(app, ["model", "list", "--json"])
    assert printed.exit_code == listed.exit_code == 0
    rows = json.loads(listed.stdout)
    assert [row["name"] for row in rows] == [*ROWS, *KINDS]
    for row in rows[len(ROWS) :]:
        assert row.pop("family") == "transformers"
        assert Kind(**row) == KINDS[row["name"]]
        assert f"  turns: {row['turns']}" in printed.stdout.splitlines()
    for row in rows[: len(ROWS)]:
        lines = printed.stdout.splitlines()
        assert row["name"] in lines, "whole, on a terminal of any width"
        assert f"  verified: {row['verified']}" in lines
        assert f"  not verified: {row['unverified']}" in lines
        family, published = row.pop("family"), ROWS[row["name"]]
        assert family in models.FAMILIES
        assert Published(**row) == published


def test_readme_has_the_figures_of_every_row() -> None:
    page = (REPO / "README.md").read_text("utf-8")
    assert runpy.run_path(str(REPO / "deploy/reference.py"))["readme"]() == page, "run `make reference`"
    for row in ROWS.values():
        (line,) = [line for line in page.splitlines() if line.startswith((f"| `{row.name}` |", f"| {row.name} |"))]
        assert f"| {row.licence} | {row.memory_bytes / 1e9:.1f} GB | {row.context:,} | {row.image_tokens:,} |" in line
        assert f"| {row.verified} | {row.unverified} |" in page


def test_the_list_needs_no_torch() -> None:
    program = (
        "import sys\n"
        "from moderation.cli.app import app\n"
        "try: app(['model', 'list'])\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, *({'torch', 'numpy', 'PIL', 'transformers', 'tokenizers'} & sys.modules.keys()))"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    assert "microsoft/Phi-3.5-vision-instruct" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "0"
