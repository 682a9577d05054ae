"""From a population to a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.posts.posts import ending_of
from moderation.evaluation.samples.drawn import Draw, draw, pictures
from moderation.evaluation.samples.populations import Member, Population, Wanted
from moderation.evaluation.samples.samples import Item, Level, Region
from moderation.evaluation.samples.sampling import Scored, order
from moderation.media.fetching import Fetcher
from moderation.settings import MediaSettings
from moderation.types import Image, ModelInfo, Post
from tests.support.builders import a_file, a_policy, a_post, an_image
from tests.support.samples import DAY

GROUPS = [hashlib.sha256(f"{number}".encode()).hexdigest() for number in range(100)]


def population(*scores: float) -> Population[int]:
    members = {
        group: Member(Scored(group, score), number)
        for number, (group, score) in enumerate(zip(GROUPS, scores, strict=False))
    }
    return Population(ModelInfo("fake", "", "a" * 64), "5" * 64, "posts", DAY, DAY, members, {"erased": 2})


def a_draw(size: int, *thresholds: float, region: Region = Region.REMOVE, steps: int = 1) -> Draw:
    return Draw(Wanted(a_policy(), region, thresholds), size, 7, steps)


class Topic:
    """Posts by number, of which some are gone."""

    def __init__(self, *gone: int) -> None:
        self.gone = set(gone)
        self.asked: list[int] = []

    async def read(self, places: Collection[int]) -> Mapping[int, Post]:
        self.asked += places
        return {place: a_post(f"post-{place}") for place in places if place not in self.gone}


async def test_items_come_in_the_order_of_the_seed() -> None:
    topic = Topic()
    sample, items = await draw(population(*[0.95] * 50), a_draw(10, 0.9), topic.read)
    assert [item.group for item in items] == order(GROUPS[:50], 7, "5" * 64)[:10]
    assert [item.number for item in items] == list(range(1, 11))
    assert all(item.post.id == f"post-{GROUPS.index(item.group)}" for item in items)
    assert sample.levels == (Level(0.9, 50),)
    assert (sample.policy, sample.region, sample.seed, sample.source) == ("no-lakes", Region.REMOVE, 7, "posts")
    assert len(topic.asked) == 10, "only what is drawn is read"


async def test_a_post_that_has_gone_since_is_of_the_population_no_longer() -> None:
    first = order(GROUPS[:50], 7, "5" * 64)
    gone = [GROUPS.index(group) for group in (first[0], first[3], first[10])]
    sample, items = await draw(population(*[0.95] * 50), a_draw(10, 0.9), Topic(*gone).read)
    left = [group for group in first if GROUPS.index(group) not in gone]
    assert [item.group for item in items] == left[:10]
    assert sample.levels == (Level(0.9, 47),)


async def test_a_small_population_is_drawn_whole() -> None:
    _, items = await draw(population(0.95, 0.9), a_draw(10, 0.9), Topic().read)
    assert len(items) == 2


async def test_a_grid_is_of_all_scores_and_each_item_has_its_level() -> None:
    scores = [0.5 + number / 200 for number in range(100)]
    sample, items = await draw(population(*scores), a_draw(40, 0.5, steps=4), Topic().read)
    assert sample.levels == (Level(0.875, 25), Level(0.75, 50), Level(0.625, 75), Level(0.5, 100))
    for item in items:
        assert item.level == 3 - GROUPS.index(item.group) // 25


async def test_a_pool_has_items_below_each_threshold() -> None:
    sample, items = await draw(population(0.95, 0.1), a_draw(5, 0.9, region=Region.POOL), Topic().read)
    assert {GROUPS.index(item.group): item.level for item in items} == {0: 0, 1: 1}
    assert sample.levels == (Level(0.9, 1),)


@pytest.mark.parametrize("gone", [(), (0, 1)])
async def test_an_empty_region_is_an_error_with_what_was_left_out(gone: tuple[int, ...]) -> None:
    scores = [0.95, 0.95] if gone else []
    with pytest.raises(ConfigError, match=r"scores 0\.9 or more for no-lakes can be read: .* \(left out: 2 erased\)"):
        await draw(population(*scores), a_draw(5, 0.9), Topic(*gone).read)


async def test_pictures_become_files_that_viewers_open(tmp_path: Path) -> None:
    formats = {"PNG": ".png", "JPEG": ".jpg", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp", "AVIF": ".avif"}
    for format, ending in formats.items():
        assert ending_of(a_file(an_image(), format)) == ending
    assert ending_of(b"words") == ".bin"
    (tmp_path / "lake.png").write_bytes(a_file())
    gone, there = ((tmp_path / name).as_uri() for name in ("gone.png", "lake.png"))
    images = (Image(data=a_file(format="JPEG")), Image(uri=gone), Image(uri=there))
    fetcher = Fetcher(MediaSettings(roots=(tmp_path,)))
    folder = tmp_path / "s.pictures"
    drawn = [Item(3, "a" * 64, 0, a_post(images=images))]

    async def fail() -> None:
        async with pictures(drawn, tmp_path / "s.sample.jsonl", fetcher):
            assert len(list(folder.iterdir())) == 2
            raise ConfigError("the sample cannot be written")

    with pytest.raises(ConfigError):
        await fail()
    assert not folder.exists(), "no posts of users stay behind"
    async with pictures(drawn, tmp_path / "s.sample.jsonl", fetcher) as (item,):
        pass
    await fetcher.close()
    assert item.files == (folder / "0003-1.jpg", folder / "0003-3.png")
    assert [file.read_bytes() for file in item.files] == [a_file(format="JPEG"), a_file()]
    assert folder.stat().st_mode & 0o077 == 0
