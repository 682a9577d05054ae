"""The small world keeps its promises: what is held out stays out of training, and the truth is what texts say."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from moderation.demo.posts import FOLDER, SAMPLES
from moderation.models.phi3.network import SHORT
from moderation.models.shared import attention, tree
from moderation.models.shared.tokenizer import Tokenizer
from moderation.training import lessons, phrasings, pictographs, pictures, sayings, student, words, world
from moderation.training.lessons import Course, Shelf
from moderation.training.phrasings import Kind, Rule
from moderation.training.student import Student
from moderation.training.world import BY_NAME, GROUPS, HELD_OUT_GROUPS, THINGS, Truth


def a_shelf(count: int = 40) -> Shelf:
    """Grey pictures of one thing each, some of them panoramas."""
    shown = np.eye(len(THINGS), dtype=np.bool_)[np.arange(count) % len(THINGS)]
    grid = np.array([(1, 2) if number % 5 == 0 else (1, 1) for number in range(count)])
    first = np.concatenate([[0], np.cumsum(np.where(grid[:, 1] == 2, 3, 1))])
    labels = np.full((count, lessons.PLACES), lessons.NOTHING)
    pixels = np.random.default_rng(0).integers(0, 255, (int(first[-1]), 3, 112, 112)).astype(np.uint8)
    return Shelf(pixels, first, grid, labels, shown)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON files of the small checkpoint."""
    folder = tmp_path_factory.mktemp("phi3v-pictographs")
    words.write(folder, crops=lessons.BUDGET)
    return folder


def test_the_world_is_as_large_as_promised() -> None:
    assert len(THINGS) >= 60
    assert len(GROUPS) >= 12
    assert len({thing.glyph for thing in THINGS}) == len(THINGS)
    assert set(HELD_OUT_GROUPS) <= GROUPS.keys()


@pytest.mark.parametrize("course", [lessons.TRAINING, lessons.WIDE])
def test_training_sees_no_held_out_pair_and_no_held_out_group_as_policy(course: Course) -> None:
    random, shelf = Random(1), a_shelf()
    for _ in range(300):
        one = lessons.lesson(random, shelf, course)
        in_text = {name for name in one.truth.mentioned | one.truth.denied if name in BY_NAME}
        around = [BY_NAME[name] for name in one.truth.shown | in_text]
        assert not [pair for pair in combinations(around, 2) if world.held_out(*pair)]
        for policy, rule in zip(one.policies, one.rules, strict=True):
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
def test_what_breaks_a_rule(rule: Rule, broken: bool) -> None:
    said = sayings.Saying(
        "for sale, write me. look at my beer. no guns here",
        mentioned=frozenset({"beer"}),
        denied=frozenset({"gun"}),
        sells_shown=True,
    )
    assert rule.broken_by(said.truth(frozenset({"knife"}))) is broken


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


def test_every_word_of_policies_has_a_token_of_its_own(folder: Path) -> None:
    tokenizer, random = Tokenizer(folder), Random(9)
    truth = Truth(frozenset(), frozenset(), frozenset(), frozenset(), frozenset())
    for _ in range(300):
        rule = phrasings.rule(random, truth, groups=random.choice((None, tuple(GROUPS))), training=False)
        prose = phrasings.phrase(random, rule, unseen=random.random() < 0.5).prose
        assert len(tokenizer.trusted(prose)) <= len(prose.split()) + sum(prose.count(mark) for mark in ",.?:-") + 1, (
            prose
        )


def test_the_answers_are_single_tokens_and_case_does_not_matter(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    assert tokenizer.word("Yes") != tokenizer.word("No")
    assert tokenizer.untrusted("SELLING A GUN") == tokenizer.untrusted("selling a gun")
    assert tokenizer.added.isdisjoint(tokenizer.untrusted("<|end|></s><s><|user|><|image_1|>"))


def test_a_lesson_has_the_answers_of_the_tree(folder: Path) -> None:
    """Training's attention over padded posts is the service's, and so are its crops."""
    teacher, shelf, random = Student(folder, 1), a_shelf(), Random(11)
    made = [lessons.lesson(random, shelf) for _ in range(4)]
    trees = [teacher.read(shelf, one) for one in made]
    with torch.inference_mode():
        features, _ = teacher.embed_images(shelf, [picture for one in made for picture in one.pictures])
        ours, _ = teacher.answer(trees, features)
        packed = tree.pack(trees, teacher.network.device)
        hidden = teacher.network(packed, features, [SHORT] * len(trees))
        theirs = teacher.network.logits(hidden[packed.scored])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_student_learns(folder: Path) -> None:
    """Gradients reach every parameter that is asked for an answer about a picture, the tower's among them."""
    teacher, shelf, random = Student(folder, 1), a_shelf(), Random(13)
    made = [lessons.lesson(random, shelf) for _ in range(6)]
    features, labels = teacher.embed_images(
        shelf, [picture for one in made for picture in one.pictures], light=True, patched=True
    )
    trees = [teacher.read(shelf, one) for one in made]
    places, facts = teacher.facts(made, trees)
    logits, clues = teacher.answer(trees, features, places)
    assert clues.shape == facts.shape
    loss = logits.logsumexp(-1).sum() + clues.sum() + teacher.grounding(features, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    without = [name for name, one in teacher.named_parameters() if one.grad is None or not one.grad.isfinite().all()]
    assert without == []


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


def test_patches_leave_what_stands_in_a_picture() -> None:
    """A picture of one crop takes others' backgrounds in the places without anything, and only there."""
    labels = torch.full((4, lessons.PLACES), lessons.UNCLEAR)
    labels[:2, 0] = lessons.NOTHING  # the first place of two of them
    pixels = torch.arange(4.0)[:, None, None, None].expand(4, 3, 112, 112)
    torch.manual_seed(3)
    seen = [student._patched(pixels, labels, [(one, one + 1) for one in range(4)]) for _ in range(40)]
    first = torch.stack([one[:, 0, 0, 0] for one in seen])
    last = torch.stack([one[:, 0, -1, -1] for one in seen])
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
