"""Labelled tables become golden sets and come back: no label is lost, and a wrong row adds nothing."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.posts import golden, importing, tables
from moderation.evaluation.posts.importing import Imported
from moderation.policies.loading import load_policies
from moderation.settings import MediaSettings
from tests.support.builders import a_file, a_policy, an_image
from tests.support.repository import REPO

POLICY = a_policy(violates=[{"id": "L1", "text": "mentions a lake"}], allows=[{"id": "L0", "text": "news"}])
NAME = f"{POLICY.id}{golden.SUFFIX}"
MEDIA = MediaSettings()


def imported(folder: Path, csv: str, **meanings: str) -> Imported:
    path = folder / "posts.csv"
    path.write_text(csv)
    return importing.imported(tables.read(path, MEDIA), POLICY, folder / NAME, MEDIA, meanings)


def wrong(found: Imported) -> list[str]:
    return [f"{mistake.line}: {mistake.text}" for mistake in found.mistakes]


def test_a_table_becomes_a_golden_set(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(a_file(an_image()))
    table = tmp_path / "tables" / "posts.csv"
    table.parent.mkdir()
    table.write_text("text,image,label,split\na lake,,L1,\n,../pictures/a.png,YES,cert\nb,,0,\nham,,spam,\n")
    target = tmp_path / NAME
    found = importing.imported(tables.read(table, MEDIA), POLICY, target, MEDIA, {"spam": "L0"})
    assert not found.mistakes
    importing.added(target, found.lines)
    labels = [(each.violates, each.clause, each.split) for each in golden.read(target, POLICY, MEDIA).posts]
    assert labels == [(True, "L1", "dev"), (True, "", "cert"), (False, "", "dev"), (False, "L0", "dev")]
    assert json.loads(found.lines[1])["post"]["images"] == [{"file": "pictures/a.png"}]


def test_the_same_post_is_added_once_and_never_with_two_labels(tmp_path: Path) -> None:
    target = tmp_path / NAME
    before = b'{"post": {"text": "a", "id": "7"}, "label": "L1"}'  # without a line break at the end
    target.write_bytes(before)
    found = imported(tmp_path, "text,label,id\na,L1,\na,L0,\nb,L1,\nb,L1,8\nb,violates,\nc,L1,7\nd,L1,9\ne,L1,9\n")
    assert found.known == 2
    assert wrong(found) == [
        f"3: label: line 1 of {target} has the same post with the label L1: keep one of the two",
        "6: label: line 4 has the same post with the label L1: keep one of the two",
        f"7: post.id: line 1 of {target} has this id with another post: give each post its own, or none",
        "9: post.id: line 8 has this id, too: give each post its own, or none",
    ]
    importing.added(target, found.lines)
    assert target.read_bytes().startswith(before + b"\n")
    assert [each.post.text for each in golden.read(target, POLICY, MEDIA).posts] == ["a", "b", "d"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "posts.csv"]


def test_json_may_write_a_label_as_a_truth_value(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text('{"text": "a", "label": true}\n{"text": "b", "label": 0}\n')
    found = importing.imported(tables.read(path, MEDIA), POLICY, tmp_path / NAME, MEDIA, {})
    assert [json.loads(line)["label"] for line in found.lines] == ["violates", "allowed"]


def test_a_label_that_no_clause_defines_is_named_with_its_line(tmp_path: Path) -> None:
    found = imported(tmp_path, "text,label\na,L1\nb,L9\nc,\n")
    assert [text.partition(":")[0] for text in wrong(found)] == ["3", "4"]
    assert "write one of violates, allowed, L1, L0" in wrong(found)[0]
    assert "label: this key is missing" in wrong(found)[1]
    with pytest.raises(ConfigError, match="no post has a label: add a column `label`"):
        imported(tmp_path, "text\na\n")


def test_a_set_that_is_wrong_takes_no_more_rows(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("{}\n")
    with pytest.raises(ConfigError, match=":1: post: this key is missing"):
        imported(tmp_path, "text,label\na,L1\n")


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not written: no such file"):
        importing.added(tmp_path / "gone" / NAME, ("{}\n",))


@pytest.mark.parametrize("folder", ["policies", "policies/demo"])
def test_the_sets_that_ship_survive_the_way_to_a_spreadsheet_and_back(folder: str, tmp_path: Path) -> None:
    for policy in load_policies(REPO / folder):
        path = golden.beside(policy, REPO / folder)
        assert path is not None
        before = golden.read(path, policy, MEDIA)
        out = tmp_path / f"{policy.id}.csv"
        out.write_text(importing.exported(before, out), encoding="utf-8-sig", newline="")
        target = tmp_path / path.name
        found = importing.imported(tables.read(out, MEDIA), policy, target, MEDIA, {})
        assert not found.mistakes
        importing.added(target, found.lines)
        assert golden.read(target, policy, MEDIA).posts == before.posts


def test_pictures_inside_lines_are_written_beside_the_table(tmp_path: Path) -> None:
    data = a_file(an_image())
    path = tmp_path / NAME
    image = {"data": base64.b64encode(data).decode(), "alt": "a lake"}
    path.write_text(json.dumps({"post": {"images": [image]}, "label": "L1"}))
    before = golden.read(path, POLICY, MEDIA)
    with pytest.raises(ConfigError, match="line 1 holds a picture, which no CSV can: name a file by --out"):
        importing.exported(before, None)
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "posts.csv"
    out.write_text(importing.exported(before, out))
    (row,) = tables.read(out, MEDIA).rows
    (image,) = row.members["post"]["images"]
    assert image["alt"] == "a lake"
    assert (out.parent / image["file"]).read_bytes() == data
