"""`moderation policies sample`: from topics that real workers wrote, and from a file with the checkpoint that ships."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from moderation.cli.app import app
from moderation.errors import ConfigError
from moderation.evaluation.samples import samples
from moderation.observability import logs
from moderation.policies import score_digest
from moderation.policies.loading import load_policy
from tests.support.builders import a_file, an_image
from tests.support.harness import Harness, running
from tests.support.logged import logging_restored
from tests.support.repository import REPO

SPAM, LAKE = "violates:spam", "unsure:spam"


@pytest.fixture(autouse=True)
def logs_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard error stays the test's."""
    monkeypatch.setattr(logs, "capture_prints", lambda _: None)
    with logging_restored():
        yield


def drew(environment: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(app, ["policies", "sample", *arguments], env=environment)


async def sampled(harness: Harness, path: Path, *arguments: str, **environment: str) -> Any:
    """What the command says as JSON. Raises what it raised."""
    result = await asyncio.to_thread(
        drew, harness.environment | environment, "spam", "--out", str(path), "--json", *arguments
    )
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


async def put(harness: Harness, *posts: dict[str, Any]) -> None:
    await harness.produce(
        *((number % 3, post["id"].encode(), json.dumps(post).encode(), ()) for number, post in enumerate(posts))
    )


def texts(path: Path) -> list[str]:
    return [item.post.text for item in samples.read(path)[1]]


async def test_a_sample_of_past_traffic_has_each_content_once(harness: Harness, tmp_path: Path) -> None:
    picture = base64.b64encode(a_file(an_image())).decode()
    (tmp_path / "lake.png").write_bytes(a_file(an_image()))
    (tmp_path / "gone.png").write_bytes(a_file(an_image(colour=(1, 2, 3))))
    linked = {"uri": (tmp_path / "lake.png").as_uri()}
    media = harness.settings.media.model_copy(update={"roots": (tmp_path,)})
    harness = Harness(harness.kafka, harness.settings.model_copy(update={"media": media}))
    posts: list[dict[str, Any]] = [
        *({"id": f"equal-{number}", "text": f"{SPAM} Buy {'NOW' if number % 2 else 'now'}"} for number in range(6)),
        *({"id": f"spam-{number}", "text": f"{SPAM} offer {number}"} for number in range(20)),
        *({"id": f"unsure-{number}", "text": f"{LAKE} {number}"} for number in range(5)),
        *({"id": f"fine-{number}", "text": f"a quiet day {number}"} for number in range(9)),
        {"id": "inline", "text": SPAM, "images": [{"data": picture}]},
        {"id": "linked", "text": SPAM, "images": [linked]},
        {"id": "gone", "text": SPAM, "images": [{"uri": (tmp_path / "gone.png").as_uri()}]},
        {"id": "mute", "text": "mute:spam"},
    ]
    async with running(harness):
        await put(harness, *posts)
        await harness.verdicts(len(posts))
        await harness.produce((0, b"spam-0", None, ()))
        await harness.read(harness.topics[1], len(posts) + 6)
    (tmp_path / "gone.png").unlink()
    roots = {"MODERATION_MEDIA__ROOTS": str(tmp_path)}
    whole, some, loose, below = (tmp_path / f"{name}.sample.jsonl" for name in ("whole", "some", "loose", "below"))

    said = await sampled(harness, whole, "--seed", "7", "--since", "1h", **roots)
    # Six posts of equal content are one group, and so are two posts with the same picture. One was erased.
    assert said["levels"] == [{"threshold": 0.9, "population": 1 + 19 + 1}]
    assert said["items"] == 21
    assert said["leftOut"] == {
        "erased": 1,
        "without a score of the policy": 1,
        "pictures that changed since, or cannot be had any more": 1,
    }
    drawn, items = samples.read(whole)
    policy = load_policy(harness.settings.policies / "spam.yaml")
    assert drawn.score_digest == score_digest(policy, drawn.model_digest) == said["scoreDigest"]
    assert (drawn.policy, drawn.policy_version, drawn.model_name, drawn.seed) == ("spam", 1, "fake", 7)
    assert not {"spam-0", "gone"} & {item.post.id for item in items}
    (shown,) = [item for item in items if item.post.images]
    assert [file.read_bytes() for file in shown.files] == [a_file(an_image())]
    assert shown.files[0].suffix == ".png"

    # The same seed draws the same, and fewer are the first of more.
    assert (await sampled(harness, some, "--seed", "7", "--size", "8", **roots))["items"] == 8
    assert texts(some) == texts(whole)[:8]

    said = await sampled(harness, loose, "--grid", "2", **roots)
    # The scores of the fake are two: no threshold keeps the violating ones apart.
    assert [level["population"] for level in said["levels"]] == [21, 26]
    levels = Counter(item.level for item in samples.read(loose)[1])
    assert levels == Counter({0: 21, 1: 5})

    said = await sampled(harness, below, "--region", "allow", **roots)
    assert said["levels"] == [{"threshold": 0.5, "population": 9}]
    assert {text.split(" ")[0] for text in texts(below)} == {"a"}

    with pytest.raises(ConfigError, match=r"whole\.sample\.jsonl: exists, and labels may belong to it"):
        await sampled(harness, whole, **roots)
    assert whole.read_bytes().count(b"\n") == 22

    path = harness.settings.policies / "spam.yaml"
    path.write_text(path.read_text().replace("advertises", "sells"))
    with pytest.raises(ConfigError, match=r"has no score of it in this period: \d+ verdicts are scored by other words"):
        await sampled(harness, tmp_path / "other.sample.jsonl", **roots)


async def test_a_period_that_is_gone_says_what_there_is(harness: Harness, tmp_path: Path) -> None:
    async with running(harness):
        await put(harness, {"id": "a", "text": SPAM})
        await harness.verdicts(1)
    path = tmp_path / "a.sample.jsonl"
    with pytest.raises(ConfigError, match=r"has no verdicts of the period 2020-01-01 .* it has those of"):
        await sampled(harness, path, "--since", "2020-01-01T00:00", "--until", "2020-01-02T00:00")
    with pytest.raises(ConfigError, match="the period ends before it begins"):
        await sampled(harness, path, "--since", "1h", "--until", "2h")
    with pytest.raises(ConfigError, match=r"nothing that scores 1 or more for spam can be read: take a longer period"):
        await sampled(harness, path, "--threshold", "1")
    assert not path.exists()


def test_posts_of_a_file_are_scored_now_whatever_their_order(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    shutil.copy(REPO / "policies/demo/weapons-sale.yaml", tmp_path / "policies")
    path = tmp_path / "policies" / "weapons-sale.yaml"
    path.write_text(f"{path.read_text()}status: draft\n")
    shutil.copy(REPO / "moderation/demo/pictures/knife.jpg", tmp_path)
    knife = {"text": "for sale, write me for the price", "images": [{"file": "knife.jpg"}]}
    rows: list[dict[str, Any]] = [
        {"post": {"text": "Selling guns, cheap and fast. Write me!"}, "label": "violates"},
        {"text": "selling GUNS,  cheap and fast. write me!"},
        {"text": "Good morning everyone. There are no guns in this post."},
        knife,
        {"text": "what a nice day"},
    ]
    environment = {"MODERATION_POLICIES": str(tmp_path / "policies")}
    found = []
    for run in range(2):
        random.Random(run).shuffle(rows)
        posts = tmp_path / f"posts-{run}.jsonl"
        posts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = tmp_path / f"run-{run}.sample.jsonl"
        options = ["weapons-sale", "--posts", str(posts), "--model", "demo", "--seed", "3", "--out", str(out)]
        folder = ["--policies", str(tmp_path / "policies")] if run else []
        result = drew(environment, *options, *folder)
        assert result.exception is None, result.output
        assert "2 groups of equal content, drawn with the seed 3" in result.stdout
        assert "these are all that there are: 153 were asked for" in result.stdout
        assert f"Label them: moderation policies label {' '.join([str(out), *folder])} --as NAME" in result.stdout
        sample, items = samples.read(out)
        assert sample.model_name == "phi3-pictographs"
        found.append([(item.number, item.group) for item in items])
        (picture,) = [file for item in items for file in item.files]
        assert picture.read_bytes() == (tmp_path / "knife.jpg").read_bytes()
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["guns"], "there is no policy guns; .* has alcohol, "),
        (["weapons-sale", "--region", "review"], "--region must be one of remove, allow, pool, not 'review'"),
        (["weapons-sale", "--region", "allow", "--grid", "3"], "leave it out with --region allow"),
        (["weapons-sale", "--out", "a.jsonl"], r"a sample ends in \.sample\.jsonl"),
        (["weapons-sale", "--since", "yesterday"], "--since must be like 30m"),
        (["weapons-sale", "--posts", "missing.jsonl"], "missing.jsonl: not readable: no such file"),
        (["weapons-sale", "--posts", "wrong.jsonl"], "wrong.jsonl:2: not JSON in column 1"),
        (["weapons-sale", "--posts", "empty.jsonl"], "empty.jsonl: holds no post"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.jsonl").write_text('{"text": "fine"}\nwords-of-a-post\n')
    Path("empty.jsonl").write_text("\n")
    result = drew({"MODERATION_POLICIES": str(REPO / "policies" / "demo")}, *arguments, "--model", "demo")
    with pytest.raises(ConfigError, match=says) as raised:
        raise result.exception or AssertionError(result.output)
    assert "words-of-a-post" not in str(raised.value)
