"""Tables of posts: what a cell means, which row is wrong and why, and no row that costs another."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moderation.errors import ConfigError
from moderation.evaluation.posts import tables
from moderation.settings import MediaSettings
from tests.support.builders import a_file, an_image

WORDS = "words-of-a-post"


def table_of(folder: Path, text: str | bytes, name: str = "posts.csv") -> tables.Table:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return tables.read(path, MediaSettings())


def lines_of(table: tables.Table) -> list[tuple[int, Any]]:
    return [(row.line, row.members) for row in table.rows]


def wrong(table: tables.Table) -> list[str]:
    return [str(mistake).removeprefix(f"{table.path}:") for mistake in table.mistakes]


def test_columns_of_a_csv_are_fields_of_posts(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(a_file(an_image()))
    table = table_of(
        tmp_path,
        "Text,image,alt,Image 2,language,label,owner,slice.Kind,id\n"
        '"two\nlines, and a ""quote""",a.png,a lake,https://example.com/b.png,de,L1,bob,photo,7\n'
        "hello,,,,,,,,\n"
        ",,,,,,,,\n",
    )
    images = [{"file": "a.png", "alt": "a lake"}, {"uri": "https://example.com/b.png"}]
    post = {"id": "7", "text": 'two\nlines, and a "quote"', "language": "de", "images": images}
    assert lines_of(table) == [
        (2, {"post": post, "label": "L1", "slices": {"Kind": "photo"}}),
        (4, {"post": {"text": "hello"}}),
    ]
    assert table.unread == ("owner",)
    assert table.folders == {tmp_path}
    first, second = table.rows
    assert (first.post.images[0].uri, first.label, second.label) == ((tmp_path / "a.png").as_uri(), "L1", "")
    assert second.post.id == "line-4"


@pytest.mark.parametrize("name", ["semicolons", "tabs", "utf-16", "mark", "windows", "bare returns"])
def test_dialects_of_spreadsheets_are_read(name: str, tmp_path: Path) -> None:
    text = 'text,label\n"one, two; three\tfour",L1\nfünf,L2\n'
    sign = {"semicolons": ";", "tabs": "\t", "utf-16": "\t"}.get(name, ",")
    lines = [line.rpartition(",") for line in text.splitlines()]
    text = "".join(f"{head}{sign}{tail}\n" for head, _, tail in lines)
    data = text.encode("utf-16" if name == "utf-16" else "utf-8-sig" if name == "mark" else "utf-8")
    if name in ("windows", "bare returns"):
        data = data.replace(b"\n", b"\r\n" if name == "windows" else b"\r")
    table = table_of(tmp_path, data)
    assert [(row.post.text, row.label) for row in table.rows] == [("one, two; three\tfour", "L1"), ("fünf", "L2")]
    assert not table.mistakes


def test_a_wrong_row_is_named_by_its_line_and_costs_no_neighbour(tmp_path: Path) -> None:
    table = table_of(
        tmp_path,
        b"text,label,image\n"
        b"one,L1,\n"
        b'"bad "quote" here",L1,\n'
        b"two,L1,\n"
        b'"three\nlines\nlong",L1,\n'
        b"words-of-a-post,L1\n"
        b"words-of-a-post\xe9,L1,\n"
        b"words-of-a-post,L1,gone.png\n"
        b",L1,\n"
        b'"words-of-a-post,L1,\n'
        b"four,L1,\n",
    )
    assert [row.post.text for row in table.rows] == ["one", "two", "three\nlines\nlong", "four"]
    assert [row.line for row in table.rows] == [2, 4, 5, 13]
    assert [text.partition(":")[0] for text in wrong(table)] == ["3", "8", "9", "10", "11", "12"]
    says = [
        "double it",
        "2 cells, and the first line names 3",
        "not UTF-8",
        "no such file",
        "neither text",
        "not closed",
    ]
    for text, words in zip(wrong(table), says, strict=True):
        assert words in text
        assert WORDS not in text


def test_json_lines_are_posts_or_lines_of_golden_sets(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(a_file(an_image()))
    rows: list[Any] = [
        {"id": "1", "text": "a", "language": "en", "label": "L1", "slices": {"kind": "x"}},
        {"image": "a.png"},
        {"image": [str(tmp_path / "a.png"), "s3://a/b"], "text": "c"},
        {"post": {"text": "d"}, "label": "allowed", "source": "qa"},
        {"text": "e", "colour": "red"},
        {"image": 1},
        [],
    ]
    table = table_of(tmp_path, "\n".join(map(json.dumps, rows)) + "\n\n{", "posts.jsonl")
    assert lines_of(table) == [
        (1, {"post": {"id": "1", "text": "a", "language": "en"}, "label": "L1", "slices": {"kind": "x"}}),
        (2, {"post": {"images": [{"file": "a.png"}]}}),
        (3, {"post": {"text": "c", "images": [{"file": "a.png"}, {"uri": "s3://a/b"}]}}),
        (4, {"post": {"text": "d"}, "label": "allowed", "source": "qa"}),
    ]
    assert [text.split(" ")[0] for text in wrong(table)] == ["5:", "6:", "7:", "9:"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hello,world\nx,y\n", ":1: its first line names no column of a post: name the columns text, image, language"),
        ("text,text\nx,y\n", ":1: the column text is there twice"),
        ("text\n\n", ": holds no post: write one a line"),
        ('[{"text": "x"}]', ": holds one list: write one object a line, as `jq -c '.[]' posts.csv` does"),
        ("", ": holds no post"),
    ],
)
def test_a_file_without_posts_is_named(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        table_of(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'posts.csv'}{says}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.csv: not readable: no such file"):
        tables.read(tmp_path / "gone.csv", MediaSettings())


def test_a_spreadsheet_runs_nothing_that_a_post_says(tmp_path: Path) -> None:
    texts = ["=HYPERLINK(1)", "+1", "-1", "@x", "\tx", "'=x", "'quoted", "plain"]
    written = tables.write([{"post": {"text": text}, "label": "L1"} for text in texts])
    cells = [line.rpartition(",,,L1")[0].strip('"') for line in written.splitlines()[1:]]
    assert cells[:6] == [f"'{text}" for text in texts[:6]]
    assert cells[6:] == texts[6:]
    assert [row.post.text for row in table_of(tmp_path, written).rows] == texts


def test_an_object_survives_in_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "OF_LINE", ("label", "split", "drawn"))
    line = {"post": {"text": "a"}, "label": "L1", "split": "cert", "drawn": {"group": "ab", "seed": 7}}
    assert [row.members for row in table_of(tmp_path, tables.write([line])).rows] == [line]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda text: text.strip())
WORD = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
LINE = st.fixed_dictionaries(
    {"post": st.fixed_dictionaries({"text": TEXT}, optional={"language": WORD, "surface": WORD, "id": WORD})},
    optional={"label": WORD, "source": WORD, "slices": st.dictionaries(WORD, WORD, min_size=1, max_size=2)},
)


@example(lines=[{"post": {"text": "0\r"}}, {"post": {"text": "\n0"}}, {"post": {"text": "\x00,\x85"}}])
@given(lines=st.lists(LINE, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(lines: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"round-trip-{os.getpid()}.csv"
    path.write_text(tables.write(lines), encoding="utf-8", newline="")
    table = tables.read(path, MediaSettings())
    assert not table.mistakes
    assert [row.members for row in table.rows] == lines


def test_a_line_is_a_post_or_a_row_of_a_golden_set(tmp_path: Path) -> None:
    (tmp_path / "lake.png").write_bytes(a_file())
    rows = [{"text": "one", "images": [{"file": "lake.png"}]}, {"post": {"id": "b", "text": "two"}, "label": "allowed"}]
    table = table_of(tmp_path, "\n\n".join(map(json.dumps, rows)), "posts.jsonl")
    assert [(row.line, row.post.id, row.post.text) for row in table.rows] == [(1, "line-1", "one"), (3, "b", "two")]
    assert table.rows[0].post.images[0].uri == (tmp_path / "lake.png").as_uri()
    assert table.folders == {tmp_path}


def test_where_each_row_counts_each_wrong_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "posts.jsonl"
    path.write_text("\n".join([json.dumps({"text": "fine"}), WORDS, json.dumps({"text": 7}), *["[]"] * 20]))
    with pytest.raises(ConfigError) as raised:
        tables.whole(path, MediaSettings())
    lines = str(raised.value).splitlines()
    assert f"{path}:2: not JSON" in lines[0]
    assert f"{path}:3: post.text" in lines[1]
    assert lines[-1] == f"{path}: 12 lines more are wrong"
    assert WORDS not in str(raised.value)
    path.write_text("text\nfine\n")
    assert [row.post.text for row in tables.whole(path, MediaSettings()).rows] == ["fine"]
