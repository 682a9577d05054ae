"""The student reads what its teacher writes: tokens, scores and gradients of the small checkpoint."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch

from moderation.models.phi3.network import SHORT
from moderation.models.shared import tree
from moderation.models.shared.tokenizer import Tokenizer
from moderation.training import lessons, phrasings, words
from moderation.training.student import Student
from moderation.training.world import GROUPS, Truth
from tests.support.lessons import a_shelf


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON files of the small checkpoint."""
    folder = tmp_path_factory.mktemp("phi3v-pictographs")
    words.write(folder, crops=lessons.BUDGET)
    return folder


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


def test_training_computes_the_scores_of_the_service(folder: Path) -> None:
    """Training's attention over padded posts is the service's, and so are its crops."""
    learner, shelf, random = Student(folder, 1), a_shelf(), Random(11)
    made = [lessons.lesson(random, shelf) for _ in range(4)]
    trees = [learner.read(shelf, lesson) for lesson in made]
    with torch.inference_mode():
        features, _ = learner.embed_images(shelf, [picture for lesson in made for picture in lesson.pictures])
        trained, _ = learner.answer(trees, features)
        packed = tree.pack(trees, learner.network.device)
        hidden = learner.network(packed, features, [SHORT] * len(trees))
        served = learner.network.logits(hidden[packed.scored])
    torch.testing.assert_close(trained, served, atol=1e-4, rtol=1e-4)


def test_the_student_learns(folder: Path) -> None:
    """Gradients reach every parameter that is asked for an answer about a picture, the tower's among them."""
    learner, shelf, random = Student(folder, 1), a_shelf(), Random(13)
    made = [lessons.lesson(random, shelf) for _ in range(6)]
    features, labels = learner.embed_images(
        shelf, [picture for lesson in made for picture in lesson.pictures], light=True, patched=True
    )
    trees = [learner.read(shelf, lesson) for lesson in made]
    places, facts = learner.facts(made, trees)
    logits, clues = learner.answer(trees, features, places)
    assert clues.shape == facts.shape
    loss = logits.logsumexp(-1).sum() + clues.sum() + learner.grounding(features, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    without = [
        name
        for name, parameter in learner.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all()
    ]
    assert without == []
