"""Files of posts to draw from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.posts import postfile
from moderation.settings import MediaSettings
from tests.support.builders import a_file


def written(folder: Path, *lines: object) -> Path:
    path = folder / "posts.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def test_a_line_is_a_post_or_a_row_of_a_golden_set(tmp_path: Path) -> None:
    (tmp_path / "lake.png").write_bytes(a_file())
    path = written(
        tmp_path,
        {"text": "one", "images": [{"file": "lake.png"}]},
        "",
        {"post": {"id": "b"} | {"text": "two"}, "label": "allowed"},
    )
    lines, folders = postfile.read(path, MediaSettings())
    assert [(line.number, line.post.id, line.post.text) for line in lines] == [(1, "line-1", "one"), (3, "b", "two")]
    assert lines[0].post.images[0].uri == (tmp_path / "lake.png").as_uri()
    assert folders == {tmp_path}


def test_each_wrong_line_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, {"text": "fine"}, "words-of-a-post", {"text": 7}, *["[]"] * 20)
    with pytest.raises(ConfigError) as raised:
        postfile.read(path, MediaSettings())
    lines = str(raised.value).splitlines()
    assert lines[0].startswith(f"{path}:2: not JSON")
    assert lines[1].startswith(f"{path}:3: post.text")
    assert lines[-1] == f"{path}: 12 lines more are wrong"
    assert "words-of-a-post" not in str(raised.value)
