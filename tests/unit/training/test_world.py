"""The small world keeps its promises: what is held out stays out of training, and the truth is what texts say."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from random import Random

import pytest
import torch

from moderation.demo.posts import FOLDER, SAMPLES
from moderation.models.shared import attention, tree
from moderation.training import lessons, phrasings, pictographs, pictures, sayings, student, world
from moderation.training.lessons import Course
from moderation.training.phrasings import Kind, Rule
from moderation.training.world import BY_NAME, GROUPS, HELD_OUT_GROUPS, THINGS
from tests.support.lessons import a_shelf
from tests.support.repository import REPO


def test_the_world_is_as_large_as_promised() -> None:
    assert len(THINGS) >= 60
    assert len(GROUPS) >= 12
    assert len({thing.glyph for thing in THINGS}) == len(THINGS)
    assert set(HELD_OUT_GROUPS) <= GROUPS.keys()


@pytest.mark.parametrize("course", [lessons.TRAINING, lessons.WIDE])
def test_training_sees_no_held_out_pair_and_no_held_out_group_as_policy(course: Course) -> None:
    random, shelf = Random(1), a_shelf()
    for _ in range(300):
        lesson = lessons.lesson(random, shelf, course)
        in_text = {name for name in lesson.truth.mentioned | lesson.truth.denied if name in BY_NAME}
        around = [BY_NAME[name] for name in lesson.truth.shown | in_text]
        assert not [pair for pair in combinations(around, 2) if world.held_out(*pair)]
        for policy, rule in zip(lesson.policies, lesson.rules, strict=True):
            # "a card" may be spoken of, "fruit" may not
            assert not set(HELD_OUT_GROUPS) & set(policy.prose.lower().replace(":", " ").split())
            # nor is a made-up word another one for it
            groups = [BY_NAME[name].group for name in rule.defined]
            assert len(set(groups)) == len(groups)
            assert not [
                pair for pair in combinations(rule.defined, 2) if world.held_out(BY_NAME[pair[0]], BY_NAME[pair[1]])
            ]


def test_unseen_phrasings_share_no_part_with_trained_ones() -> None:
    def parts(phrasing: phrasings.Phrasing) -> set[str]:
        return {*phrasing.titles, *phrasing.clauses, *phrasing.questions}

    trained = {
        *phrasings.VAGUE_TITLES,
        *phrasings.VAGUE_QUESTIONS,
        *(part for kind in Kind for part in parts(phrasings.TRAINED[kind]) | parts(phrasings.WIDER[kind])),
    }
    assert not [part for kind in Kind for part in parts(phrasings.UNSEEN[kind]) if part in trained]


def test_a_lesson_is_that_of_its_seed() -> None:
    assert lessons.lesson(Random(3), a_shelf()) == lessons.lesson(Random(3), a_shelf())


@pytest.mark.parametrize(
    ("rule", "broken"),
    [
        (Rule(Kind.PICTURE, ("knife",)), True),
        (Rule(Kind.PICTURE, ("weapons",)), True),
        (Rule(Kind.TEXT, ("knife",)), False),
        (Rule(Kind.TEXT, ("beer",)), True),
        (Rule(Kind.TEXT, ("gun",)), False),  # the text says that there is none
        (Rule(Kind.EITHER, ("alcohol",)), True),
        (Rule(Kind.BOTH, ("knife",)), False),
        (Rule(Kind.OFFER, ("knife",)), True),  # "for sale", and shown
        (Rule(Kind.OFFER, ("beer",)), False),  # only spoken of
        (Rule(Kind.EITHER, ("cat", "beer")), True),
        (Rule(Kind.EITHER, ("wugs",), ("cat", "beer")), True),
        (Rule(Kind.OFFER, ("wugs",), ("cat", "beer")), False),
        (Rule(Kind.BOTH, ("wugs",), ("knife", "beer")), True),  # one shown, one mentioned
    ],
)
def test_a_rule_is_broken_by_what_is_shown_or_mentioned(rule: Rule, broken: bool) -> None:
    saying = sayings.Saying(
        "for sale, write me. look at my beer. no guns here",
        mentioned=frozenset({"beer"}),
        denied=frozenset({"gun"}),
        sells_shown=True,
    )
    assert rule.broken_by(saying.truth(frozenset({"knife"}))) is broken


def test_a_text_mentions_what_its_truth_says() -> None:
    random = Random(5)
    for _ in range(300):
        said = sayings.say(random, [], unseen=True, training=False)
        spoken = said.text.lower()
        for name in said.mentioned | said.denied:
            thing = BY_NAME.get(name)
            assert name in spoken or (thing is not None and thing.many in spoken), said
        assert not (said.mentioned | said.named) & said.denied


def test_rules_are_broken_in_about_a_third_of_questions() -> None:
    random, shelf = Random(7), a_shelf()
    answers = [answer for _ in range(300) for answer in lessons.lesson(random, shelf).answers]
    assert 0.25 < sum(answers) / len(answers) < 0.5


@pytest.mark.skipif(not pictographs.FONT.exists(), reason="pictures are drawn with fonts-noto-color-emoji")
def test_labels_stand_where_the_things_are() -> None:
    random = Random(15)
    for _ in range(20):
        drawn = pictographs.scene(random, things=(BY_NAME["pizza"],))
        labels = lessons.labels(drawn)
        assert len(labels) == lessons.PLACES
        assert set(labels) <= {lessons.INDEX["pizza"], lessons.NOTHING, lessons.UNCLEAR}
        assert lessons.INDEX["pizza"] in labels


def test_padded_posts_need_equally_many_branches() -> None:
    packed = tree.pack([tree.Tree((1, 2), ((3,), (4, 5)))], torch.device("cpu"))
    attend = student.padded(packed)
    heads = torch.randn(5, 1, 8)
    torch.testing.assert_close(attend(heads, heads, heads), attention.of_tokens(packed)(heads, heads, heads))


def test_patches_change_only_places_without_anything() -> None:
    """A picture of one crop takes others' backgrounds in the places without anything, and only there."""
    labels = torch.full((4, lessons.PLACES), lessons.UNCLEAR)
    labels[:2, 0] = lessons.NOTHING  # the first place of two of them
    pixels = torch.arange(4.0)[:, None, None, None].expand(4, 3, 112, 112)
    torch.manual_seed(3)
    runs = [student._patched(pixels, labels, [(place, place + 1) for place in range(4)]) for _ in range(40)]
    first = torch.stack([batch[:, 0, 0, 0] for batch in runs])
    last = torch.stack([batch[:, 0, -1, -1] for batch in runs])
    assert ((first - last).abs() > 0.2).any(0).tolist() == [True, True, False, False]
    assert ((last - torch.arange(4.0)).abs() <= 0.75).all()  # another picture shines through, by a quarter at most


def test_every_picture_of_a_sample_post_can_be_drawn_again() -> None:
    used = {picture for sample in SAMPLES for picture in sample.pictures}
    assert used == pictures.PICTURES.keys() == {file.name for file in FOLDER.iterdir()}
    assert {thing for things in pictures.PICTURES.values() for thing in things} <= BY_NAME.keys()


@pytest.mark.skipif(not pictographs.FONT.exists(), reason="pictures are drawn with fonts-noto-color-emoji")
def test_the_pictures_of_the_sample_posts_are_drawn(tmp_path: Path) -> None:
    pictures.draw(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == pictures.PICTURES.keys()


def test_the_card_names_each_word_of_the_world() -> None:
    card = (REPO / "moderation/demo/phi3-pictographs/README.md").read_text("utf-8")
    rows = [f"| {group} | {', '.join(sorted(thing.name for thing in things))} |" for group, things in GROUPS.items()]
    assert [row for row in rows if row not in card] == []
    assert f"({', '.join(HELD_OUT_GROUPS)})" in card.replace("\n", " ")
