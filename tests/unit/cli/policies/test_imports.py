"""`moderation policies import` and `export`: what they write, and what they refuse without losing a label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moderation.cli.policies.imports import export_posts, import_posts
from moderation.errors import ConfigError
from moderation.evaluation.posts import golden
from moderation.policies.loading import load_policies
from moderation.settings import MediaSettings

POLICY = """
id: lakes
version: 1
title: Lakes
question: Does this post mention a lake?
violates: [{id: L1, text: mentions a lake}]
thresholds: {review: 0.5, remove: 0.9}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A policy without a golden set, and a table with labels."""
    (tmp_path / "lakes.yaml").write_text(POLICY)
    (tmp_path / "posts.csv").write_text("text,label,owner\na lake,spam,bob\na sea,allowed,\n")
    return tmp_path


def test_a_table_is_imported_and_exported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = folder / "lakes.golden.jsonl"
    import_posts(folder / "posts.csv", folder, policy="lakes", label=["spam=L1"])
    printed = capsys.readouterr()
    assert printed.out == f"{target}: 2 posts added\n"
    assert printed.err == "not read: the columns owner\n"
    (policy,) = load_policies(folder)
    assert [each.clause for each in golden.read(target, policy, MediaSettings()).posts] == ["L1", ""]
    export_posts(folder, policy="lakes")
    assert capsys.readouterr().out == "text,image,language,label\na lake,,,L1\na sea,,,allowed\n"
    export_posts(folder, policy="lakes", file=folder / "out.csv")
    assert (folder / "out.csv").read_bytes().startswith(b"\xef\xbb\xbftext,image")
    before = target.read_bytes()
    import_posts(folder / "out.csv", folder, policy="lakes", append=True)
    assert capsys.readouterr().out == f"{target}: 0 posts added, 2 were there already\n"
    assert target.read_bytes() == before


def test_with_a_wrong_row_nothing_is_written(folder: Path) -> None:
    (folder / "posts.csv").write_text("text,label\na lake,L1\na sea,L9\nshort\n")
    with pytest.raises(ConfigError) as caught:
        import_posts(folder / "posts.csv", folder, policy="lakes")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{folder}/posts.csv:3: label: must be violates, allowed or a clause")
    assert lines[1].startswith(f"{folder}/posts.csv:4: the row has 1 cells")
    assert lines[2] == "nothing was written: correct these rows first"
    assert not (folder / "lakes.golden.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"policy": "seas"}, "there is no policy seas; the folder has lakes"),
        ({"policy": "lakes", "label": ["spam"]}, "--label spam: must be WORD=LABEL"),
        ({"policy": "lakes", "label": ["spam=L9"]}, "LABEL is one of violates, allowed, L1"),
    ],
)
def test_options_that_say_nothing_are_named(folder: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        import_posts(folder / "posts.csv", folder, **options)


def test_what_holds_labels_is_not_written_over(folder: Path) -> None:
    target = folder / "lakes.golden.jsonl"
    with pytest.raises(ConfigError, match=r"there is no lakes\.golden\.jsonl: nothing to export"):
        export_posts(folder, policy="lakes")
    target.write_text('{"post": {"text": "x"}, "label": "L1"}\n')
    with pytest.raises(ConfigError, match="there is a golden set already: add --append"):
        import_posts(folder / "posts.csv", folder, policy="lakes", label=["spam=L1"])
    with pytest.raises(ConfigError, match="the file exists, and may hold labels"):
        export_posts(folder, policy="lakes", file=folder / "posts.csv")
    assert target.read_text().count("\n") == 1
