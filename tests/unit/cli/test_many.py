"""`moderation classify` of many posts: what is printed and written, and which row is named. The model is the fake."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from moderation.cli.classify import classify
from moderation.errors import ConfigError
from tests.support.builders import a_file, an_image

POLICY = """
id: {id}
version: 1
title: {id}
question: Is this {id}?
violates: [{{id: {clause}, text: advertises}}]
thresholds: {{review: 0.4, remove: 0.9}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two policies."""
    folder = tmp_path / "policies"
    folder.mkdir()
    for id, clause in (("lakes", "L1"), ("ponds", "P1")):
        (folder / f"{id}.yaml").write_text(POLICY.format(id=id, clause=clause))
    return folder


def exits(**options: Any) -> int:
    """The exit code."""
    try:
        classify(model_name="fake", **options)
    except SystemExit as ended:
        return int(str(ended.code))
    return 0


def posts(folder: Path, text: str, name: str = "posts.csv") -> Path:
    path = folder.parent / name
    path.write_text(text)
    return path


LABELLED = (
    "id,text,label,image\n"
    "a,violates:lakes,L1,\n"
    "b,hello,allowed,\n"
    "c,violates:ponds,allowed,\n"
    "d,hello,ponds,\n"
    "e,unsure:lakes,violates,\n"
    "f,hello,,\n"
)


def test_misses_are_listed_where_there_are_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exits(posts=posts(folder, LABELLED), folder=folder) == 0
    printed = capsys.readouterr().out
    assert "3 of 5 posts with a label are as labelled" in printed
    misses = printed.partition("as labelled")[2].partition("6 posts")[0]
    assert [line.split()[1] for line in misses.splitlines()[2:4]] == ["c", "d"]
    assert re.search(r"4 +c +allowed +REMOVE +ponds 1\.000 +false alarm", misses)
    assert re.search(r"5 +d +ponds +ALLOW +ponds 0\.000 +missed", misses)
    assert "6 posts: 3 ALLOW, 1 REVIEW, 2 REMOVE; model fake" in printed
    assert re.search(r"^lakes +4 +1 +1 +0$", printed, re.MULTILINE)


def test_wrong_rows_are_named_and_all_others_judged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = posts(folder, f"{LABELLED}short\ng,hello,L9,\nh,hello,,gone.png\ni,violates:lakes,,\n")
    assert exits(posts=path, folder=folder, as_json=True) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [post["id"] for post in found["posts"]] == ["a", "b", "c", "d", "e", "f", "i"]
    assert [mistake["line"] for mistake in found["mistakes"]] == [8, 9, 10]
    assert f"{path}:9: label: must be violates, allowed, the id of a policy (lakes, ponds)" in printed.err
    assert found["outcomes"] == {"ALLOW": 3, "REVIEW": 1, "REMOVE": 3}
    assert found["misses"] == {"false alarm": 1, "missed": 1}
    (first, *_) = found["posts"]
    assert (first["line"], first["label"], first["miss"], first["deciding_policy"]) == (2, "L1", None, "lakes")
    assert first["probabilities"]["lakes"] > 0.99 > first["probabilities"]["ponds"]


def test_a_csv_comes_back_as_a_table_of_posts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.parent / "a.png").write_bytes(a_file(an_image()))
    path = posts(folder, f"{LABELLED}g,=1+1,,a.png\n")
    out = folder.parent / "results" / "out.csv"
    out.parent.mkdir()
    assert exits(posts=path, folder=folder, file=out) == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [row["line"] for row in rows] == [str(line) for line in range(2, 9)]
    assert [row["miss"] for row in rows] == ["", "", "false alarm", "missed", "", "", ""]
    assert (rows[6]["text"], rows[6]["image"]) == ("'=1+1", "../a.png")
    assert float(rows[0]["P lakes"]) > 0.99
    assert [path.name for path in out.parent.iterdir()] == ["out.csv"], "what was kept is removed"
    capsys.readouterr()
    assert exits(posts=out, folder=folder, as_json=True) == 0
    again = json.loads(capsys.readouterr().out)
    assert [post["id"] for post in again["posts"]] == [row["id"] for row in rows]
    assert again["misses"] == {"false alarm": 1, "missed": 1}


def test_a_page_shows_misses_first_and_runs_nothing(folder: Path) -> None:
    picture = folder.parent / "a.png"
    picture.write_bytes(a_file(an_image()))
    path = posts(folder, f"{LABELLED}g,<script>alert(1)</script> violates:lakes,,a.png\n")
    out = folder.parent / "out.html"
    assert exits(posts=path, folder=folder, file=out) == 0
    page = out.read_text()
    shown = re.findall(r"line (\d)", page)
    assert shown[:2] == ["4", "5"]
    assert sorted(shown) == list("2345678")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert str(folder.parent) not in page


def test_a_golden_set_is_labelled_by_its_own_policy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"post": {"text": "violates:ponds"}, "label": "allowed"}, {"post": {"text": "hello"}, "label": "L1"}]
    path = posts(folder, "\n".join(map(json.dumps, rows)), "lakes.golden.jsonl")
    assert exits(posts=path, folder=folder, as_json=True) == 0
    assert [post["miss"] for post in json.loads(capsys.readouterr().out)["posts"]] == [None, "missed"]


def test_one_policy_alone_judges_whatever_its_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "lakes.yaml"
    path.write_text(f"{path.read_text()}status: draft\n")
    assert exits(posts=posts(folder, LABELLED), folder=folder, policy="lakes", as_json=True) == 1
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert {frozenset(post["probabilities"]) for post in found["posts"]} == {frozenset(["lakes"])}
    assert [post["miss"] for post in found["posts"]] == [None, None, None, None, None]
    assert ":5: label: must be" in printed.err  # `ponds` is no label of this policy


def test_each_picture_of_a_folder_is_a_post(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = folder.parent / "pictures"
    (pictures / "more").mkdir(parents=True)
    (pictures / "b.png").write_bytes(a_file(an_image()))
    (pictures / "more" / "a b.JPG").write_bytes(a_file(an_image()))
    (pictures / "broken.png").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("words")
    assert exits(pictures=pictures, folder=folder, as_json=True) == 1
    printed = capsys.readouterr()
    found = {post["id"]: post for post in json.loads(printed.out)["posts"]}
    assert list(found) == ["b.png", "broken.png", "more/a b.JPG"]
    assert found["more/a b.JPG"]["status"] == "FINAL"
    assert found["broken.png"]["problems"] == ["IMAGE_UNSUPPORTED images[0] no picture"]
    assert "files that are no pictures, and were left out: 1" in printed.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"posts": Path("a.csv"), "text": "x"}, "give one of --posts, --pictures, --post"),
        ({"posts": Path("a.csv"), "pictures": Path("a")}, "give one of --posts, --pictures, --post"),
        ({"text": "x", "file": Path("a.csv")}, "--out and --policy are for many posts"),
        ({"posts": Path("gone.csv")}, "gone.csv: not readable"),
        ({"posts": Path("gone.csv"), "file": Path("a.txt")}, r"must end in \.csv, \.json, \.html"),
        ({"posts": Path("gone.csv"), "file": Path("gone.csv")}, "this is the file of the posts: name another"),
        ({"posts": Path("gone.csv"), "policy": "seas"}, "there is no policy seas; the folder has lakes, ponds"),
        ({"pictures": Path("gone")}, "gone: no such folder"),
    ],
)
def test_what_cannot_be_judged_is_named(folder: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        exits(folder=folder, **options)
