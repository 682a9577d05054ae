"""Files of samples: what is written is read, and nothing that is broken or overwritten passes."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.samples import samples
from moderation.evaluation.samples.samples import Item, Level, Region
from moderation.types import Detail, Image, Post, Problem, Reason
from tests.support.builders import a_file
from tests.support.samples import a_sample, items_of, some_items


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / f"spam{samples.SUFFIX}"


def test_what_is_written_is_read(path: Path) -> None:
    refused = Problem(Reason.NOT_DECODABLE, "images[1].data", Detail.BASE64)
    images = (
        Image(data=a_file(), alt="a lake, \U0001f525"),
        Image(data=b"no base64!", problem=refused),
        Image(uri="s3://pictures/lake.png"),
        Image(uri="s3://half-\ud83d", problem=Problem(Reason.INVALID_POST, "images[3].uri", Detail.LONE_SURROGATE)),
    )
    post = Post("ä/1", "zwei\nZeilen\u2028 und\0 mehr", images, "tenant", "de", "comment")
    item = Item(1, "f" * 64, 1, post, (path.parent / "pictures" / "1.png", Path("/elsewhere/2.png")))
    sample = a_sample(levels=(Level(0.95, 10), Level(0.9, 25)))
    samples.write(path, sample, [item])
    read, (again,) = samples.read(path)
    assert read == sample
    assert (again.number, again.group, again.level, again.files) == (1, "f" * 64, 1, item.files)
    assert (again.post.id, again.post.text, again.post.language) == (post.id, post.text, "de")
    assert again.post.images[:3] == images[:3]
    assert again.post.images[3].problem == images[3].problem


def test_the_file_holds_no_scores_and_is_for_its_owner_alone(path: Path) -> None:
    samples.write(path, a_sample(), some_items(3))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for line in path.read_text().splitlines()[1:]:
        assert set(json.loads(line)) == {"number", "group", "level", "post", "files"}


def test_a_sample_is_not_overwritten(path: Path) -> None:
    samples.write(path, a_sample(), some_items(1))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="exists, and labels may belong to it: name another file"):
        samples.write(path, a_sample(seed=8), some_items(2))
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"away/spam\.sample\.jsonl: not written: no such file"):
        samples.write(tmp_path / "away" / "spam.sample.jsonl", a_sample(), [])
    with pytest.raises(ConfigError, match="not readable: no such file"):
        samples.read(tmp_path / "spam.sample.jsonl")


@pytest.mark.parametrize(
    ("line", "change", "says"),
    [
        (1, {"levels": []}, ":1: levels: tuple should have at least 1 item"),
        (1, {"score_digest": "5"}, ":1: score_digest: string should match"),
        (1, {"begins": "2026-01-31T00:00:00"}, ":1: begins: input should have timezone"),
        (1, {"items": 4}, "it is cut: line 1 says 4 items, and 3 follow"),
        (1, {"format": 2}, ":1: format: input should be 1"),
        (2, {"score": 0.9}, ":2: score: extra inputs are not permitted"),
        (3, {"number": 1}, ":3: number: must be 2"),
        (4, {"group": items_of([Post("a")])[0].group}, ":4: group: line 2 has this group, too"),
        (4, {"level": 1}, ":4: level: line 1 has 1 levels"),
        (4, {"post": {"id": "a", "text": 7}}, r":4: post\.text: input should be a valid string"),
    ],
)
def test_a_broken_line_is_named(path: Path, line: int, change: dict[str, Any], says: str) -> None:
    samples.write(path, a_sample(), some_items(3))
    lines = path.read_text().splitlines()
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | change)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match=says) as raised:
        samples.read(path)
    assert "draw the sample again" in str(raised.value)
    assert "text of post" not in str(raised.value)


def test_only_a_pool_has_items_below_all_levels(path: Path) -> None:
    items = [Item(1, "f" * 64, 1, Post("a", "text"))]
    samples.write(path, a_sample(region=Region.POOL), items)
    assert samples.read(path)[1] == tuple(items)


@pytest.mark.parametrize("cut", [1, 40, 300])
def test_a_file_that_is_cut_is_no_smaller_sample(path: Path, cut: int) -> None:
    samples.write(path, a_sample(), some_items(3))
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ConfigError):
        samples.read(path)
