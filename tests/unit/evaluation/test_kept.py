"""Answers that are kept: the model is asked once, what it says is the same, and nothing of a post is in the file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moderation.evaluation import kept
from moderation.evaluation.judging import Judge
from moderation.evaluation.kept import Answers, KeptScorer
from moderation.inference.batcher import Batcher
from moderation.inference.scoring import Scorer
from moderation.media.reader import Media
from moderation.models.contract import Encoded, Windows
from moderation.models.fake import Fake, FakeEncoded
from moderation.policies import Policy
from moderation.settings import MediaSettings, ModelSettings, WorkerSettings
from moderation.types import Content, Finding, ModelInfo, Post, Problem, Question, Reason, Score, YesNo
from tests.support.builders import a_policy, a_post, an_image, inline

LAKES, BOATS, MUTE = a_policy("no-lakes"), a_policy("no-boats", title="Boats"), a_policy("no-mutes", title="Mutes")
WORDS = "violates:no-lakes unsure:no-boats mute:no-mutes"


class Counted(Fake):
    """A fake that counts what it is asked."""

    def __init__(self, *, fails: bool = False, alias: bool = False, cut: tuple[int, int] = (0, 16)) -> None:
        super().__init__(raise_on="poison" if fails else "", cut=cut)
        self.info = replace(self.info, alias=alias)
        self.asked: list[str] = []

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
        self.asked += [question.policy_id for question in questions]
        return super().encode(content, questions)

    def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
        return super().score(batch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "answers.sqlite"


@asynccontextmanager
async def opened(model: Fake) -> AsyncIterator[tuple[Media, Scorer]]:
    async with Media(MediaSettings()) as media, Batcher(model, WorkerSettings(failed_post_s=0.02)) as scorer:
        yield media, scorer


async def judged(
    path: Path,
    posts: Sequence[Post],
    *policies: Policy,
    model: Fake | None = None,
    fresh: bool = False,
    settings: ModelSettings | None = None,
) -> tuple[list[dict[str, Finding]], Answers]:
    """What a run finds with the answers of earlier runs."""
    async with opened(model or Counted()) as (media, scorer):
        with Answers(path, fresh=fresh) as answers:
            keeping = KeptScorer(scorer, answers, policies, settings or ModelSettings(name="fake"))
            return await Judge(policies, media, keeping).findings(posts, lambda _: None), answers


async def without_keeping(posts: Sequence[Post], *policies: Policy, model: Fake) -> list[dict[str, Finding]]:
    async with opened(model) as (media, scorer):
        return await Judge(policies, media, scorer).findings(posts, lambda _: None)


POSTS = [
    a_post("a", WORDS),
    a_post("b", "a quiet day"),
    a_post("c", f"{WORDS} and a picture", images=(inline(),)),
    a_post("d", " ".join([*["word"] * 30, WORDS, *["word"] * 300])),  # of several windows, and more than are judged
    a_post("e", WORDS, images=(replace(inline(), data=b"no picture"),)),
]


async def test_a_second_run_says_the_same_and_asks_nothing(path: Path) -> None:
    policies = (LAKES, BOATS, MUTE)
    expected = await without_keeping(POSTS, *policies, model=Fake(cut=(8, 4)))
    first, second = Counted(cut=(8, 4)), Counted(cut=(8, 4))
    found, answers = await judged(path, POSTS, *policies, model=first)
    assert found == expected
    assert len(first.asked) == answers.added == 12  # of the last post, the model is shown what the first one shows
    found, answers = await judged(path, POSTS, *policies, model=second)
    assert found == expected
    assert second.asked == []
    assert (answers.found, answers.added) == (15, 0)
    # The posts are such that each way of answering is among them.
    findings = [finding for row in expected for finding in row.values()]
    assert {Reason.TEXT_TOO_LONG, Reason.NO_ANSWER, Reason.IMAGE_CORRUPT, None} <= {one.reason for one in findings} | {
        Reason.IMAGE_CORRUPT if one.path.startswith("images") else None for one in findings
    }
    assert max(finding.windows for finding in findings) == 4


async def test_a_change_of_numbers_asks_nothing_and_decides_as_a_worker_does(path: Path) -> None:
    await judged(path, POSTS, LAKES, BOATS, MUTE)
    numbers: dict[str, Any] = {
        "thresholds": {"review": 0.2, "remove": 0.4, "mass": 0.0},
        "on_error": "remove",
        "version": 9,
        "severity": "critical",
    }
    changed = [a_policy(policy.id, title=policy.title, **numbers) for policy in (LAKES, BOATS, MUTE)]
    model = Counted()
    found, _ = await judged(path, POSTS, *changed, model=model)
    assert model.asked == []
    assert found == await without_keeping(POSTS, *changed, model=Fake())


async def test_a_changed_word_asks_about_that_policy_alone(path: Path) -> None:
    await judged(path, POSTS[:2], LAKES, BOATS)
    model = Counted()
    reworded = a_policy("no-boats", title="Boats", question="Does this post show a boat?")
    found, _ = await judged(path, POSTS[:2], LAKES, reworded, model=model)
    assert model.asked == ["no-boats"] * 2
    assert found == await without_keeping(POSTS[:2], LAKES, reworded, model=Fake())


@pytest.mark.parametrize(
    "settings",
    [
        ModelSettings(name="fake", max_windows=3),
        ModelSettings(name="fake", window_tokens=1024),
        ModelSettings(name="fake", url="http://other:8000/v1"),
    ],
    ids=["max_windows", "window_tokens", "url"],
)
async def test_another_cut_of_the_text_or_another_server_is_asked_about(path: Path, settings: ModelSettings) -> None:
    await judged(path, POSTS[:1], LAKES)
    model = Counted()
    await judged(path, POSTS[:1], LAKES, model=model, settings=settings)
    assert model.asked == ["no-lakes"]


@pytest.mark.parametrize(
    "other",
    [
        a_post("a", f"{WORDS} "),
        a_post("a", WORDS, images=(inline(),)),
        a_post("a", WORDS, images=(inline(an_image(colour=(1, 2, 3))),)),
    ],
    ids=["text", "picture", "another picture"],
)
async def test_another_content_is_asked_about(path: Path, other: Post) -> None:
    await judged(path, [POSTS[0], a_post("p", WORDS, images=(inline(an_image(colour=(9, 9, 9))),))], LAKES)
    model = Counted()
    await judged(path, [other], LAKES, model=model)
    assert model.asked == ["no-lakes"]


async def test_another_model_is_asked(path: Path) -> None:
    await judged(path, POSTS[:1], LAKES)
    model = Counted()
    model.info = replace(model.info, digest="d" * 64)
    await judged(path, POSTS[:1], LAKES, model=model)
    assert model.asked == ["no-lakes"]


async def test_what_may_pass_is_not_kept(path: Path) -> None:
    failing, healthy = Counted(fails=True), Counted()
    poisoned = [a_post("p", "poison violates:no-lakes")]
    ((one,), answers) = await judged(path, poisoned, LAKES, model=failing)
    assert one["no-lakes"].reason is Reason.MODEL_FAILED
    assert answers.added == 0
    ((one,), _) = await judged(path, poisoned, LAKES, model=healthy)
    assert one["no-lakes"].reason is None
    assert healthy.asked == ["no-lakes"]


async def test_nothing_is_kept_of_an_alias(path: Path) -> None:
    for _ in range(2):
        model = Counted(alias=True)
        await judged(path, POSTS[:1], LAKES, model=model)
        assert model.asked == ["no-lakes"]


async def test_fresh_asks_again_and_keeps_what_it_gets(path: Path) -> None:
    await judged(path, POSTS[:1], LAKES)
    model, third = Counted(), Counted()
    await judged(path, POSTS[:1], LAKES, model=model, fresh=True)
    assert model.asked == ["no-lakes"]
    await judged(path, POSTS[:1], LAKES, model=third)
    assert third.asked == []


def content_of(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_the_file_holds_no_content_and_is_the_users_alone(path: Path) -> None:
    await judged(path, [a_post("a", "elephantine thoughts")], LAKES)
    written = content_of(path)
    assert len(written) > 100
    for word in (b"elephantine", b"thoughts", b"lake", b"no-lakes"):
        assert word not in written
    assert mode(path) == 0o600


async def test_answers_outlive_a_run_that_ends_at_once(path: Path) -> None:
    """No answer waits for the end of the run: another process sees each of them."""
    async with opened(Counted()) as (media, scorer):
        with Answers(path) as answers:
            judge = Judge([LAKES], media, KeptScorer(scorer, answers, [LAKES], ModelSettings(name="fake")))
            counts = []

            def step(_: int) -> None:
                with sqlite3.connect(path) as other:
                    counts.append(other.execute("SELECT count(*) FROM answers_1").fetchone()[0])
                other.close()

            await judge.findings(POSTS[:1], step)
            await judge.findings(POSTS[1:2], step)
    assert counts == [1, 2]


def test_what_was_not_used_for_longest_is_deleted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ((Score(0.5, 0.0, 0.9),), ())
    keys = [bytes([number]) * 32 for number in range(31)]
    with Answers(path, most=30) as file:
        for day, key in enumerate(keys[:30]):
            monkeypatch.setattr(kept, "_day", lambda day=day: day)
            file.put([(key, answers)])
        monkeypatch.setattr(kept, "_day", lambda: 100)
        assert file.get(keys[0]) == answers  # used again
        file.put([(keys[30], answers)])
        left = [key for key in keys if file.get(key) is not None]
    assert left == [keys[0], *keys[5:]]


@pytest.mark.parametrize(
    "windows",
    [
        ((Score(0.1 + 0.2, -1.2345678901234567, None), Score(1e-300, -690.8, 1.0)), ()),
        ((YesNo(True), YesNo(False), Reason.REFUSED), (Problem(Reason.TEXT_TOO_LONG, "text"),)),
        ((), (Problem(Reason.PICTURES_UNSEEN, "images"),)),
    ],
)
def test_answers_come_back_as_they_were(path: Path, windows: kept.Windows) -> None:
    with Answers(path) as file:
        file.put([(b"k" * 32, windows)])
    with Answers(path) as file:
        assert file.get(b"k" * 32) == windows


def broken(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database" * 1000)


async def test_a_file_that_is_no_database_is_replaced(path: Path) -> None:
    broken(path)
    (first, answers), model = await judged(path, POSTS[:1], LAKES), Counted()
    assert answers.lost == ""
    second, _ = await judged(path, POSTS[:1], LAKES, model=model)
    assert first == second
    assert model.asked == []


async def test_a_row_of_another_version_is_asked_again(path: Path) -> None:
    await judged(path, POSTS[:1], LAKES)
    with sqlite3.connect(path) as database:
        database.execute("""UPDATE answers_1 SET answers = '[["SOMETHING_NEW"],[]]'""")
    database.close()
    model = Counted()
    await judged(path, POSTS[:1], LAKES, model=model)
    assert model.asked == ["no-lakes"]


def no_folder(path: Path) -> None:
    path.parent.write_text("a file where a folder should be")


def a_folder(path: Path) -> None:
    path.mkdir(parents=True)


@pytest.mark.parametrize("spoil", [no_folder, a_folder])
async def test_without_a_place_to_keep_answers_a_run_goes_on(path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(path)
    found, answers = await judged(path, POSTS[:2], LAKES)
    assert [set(row) for row in found] == [{"no-lakes"}] * 2
    assert str(path) in answers.lost


async def test_where_writing_fails_later_a_run_goes_on(path: Path) -> None:
    async with opened(Counted()) as (media, scorer):
        with Answers(path) as answers:
            judge = Judge([LAKES], media, KeptScorer(scorer, answers, [LAKES], ModelSettings(name="fake")))
            await judge.findings(POSTS[:1], lambda _: None)
            assert answers._database is not None
            answers._database.execute("DROP TABLE answers_1")
            found = await judge.findings(POSTS[:2], lambda _: None)
    assert len(found) == 2
    assert "no such table" in answers.lost


def test_the_file_lies_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path))
    assert kept.default_path() == tmp_path / "moderation" / "answers.sqlite"


async def test_the_scorer_is_the_other_one_in_all_else(path: Path) -> None:
    async with opened(Counted()) as (_, scorer):
        with Answers(path) as answers:
            keeping = KeptScorer(scorer, answers, [LAKES], ModelSettings(name="fake"))
            info: ModelInfo = keeping.info
            assert info == scorer.info
            assert keeping.strictest is scorer.strictest
            empty = await keeping.score(Content("text", (), ""), [])
            assert empty == await scorer.score(Content("text", (), ""), [])
