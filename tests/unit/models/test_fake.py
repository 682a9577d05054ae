"""The double of a model keeps its contract, and its failpoints fire."""

from __future__ import annotations

import subprocess
import sys

import pytest

from moderation import models
from moderation.errors import ConfigError, DeviceError
from moderation.models.contract import Classifier
from moderation.models.fake import PICTURE_TOKENS, Fake
from moderation.settings import ModelSettings
from moderation.types import Content, Problem, Question, Reason
from tests.support.builders import mass_of

SPAM = Question("spam", "Is this spam?")
HATE = Question("hate", "Is this hate?")


def a_content(text: str) -> Content:
    return Content(text=text, pictures=(), digest="")


def test_answers_follow_from_the_words_of_the_post() -> None:
    fake: Classifier = Fake()
    texts = ["hello", "violates:hate", "unsure:spam", "mute:spam", "violates:spam-not"]
    batch = [item for text in texts for item in fake.encode(a_content(text), [SPAM, HATE])]
    scores = fake.score(batch)
    assert [[round(score.probability, 2) for score in row] for row in scores] == [
        [0, 0],
        [0, 1],
        [0.5, 0],
        [0, 0],
        [0, 0],
    ]
    assert [row[0].mass for row in scores] == [0.99, 0.99, 0.99, 0.01, 0.99]


def test_tokens_count_words_and_pictures() -> None:
    from PIL import Image

    picture = Image.new("RGB", (2, 2))
    (item,) = Fake().encode(Content("two words", (picture, picture), ""), [SPAM])
    assert item.tokens == 2 + 3 + 2 * PICTURE_TOKENS


def test_the_fake_fails_on_the_posts_that_its_options_name() -> None:
    fake = Fake(raise_on="poison", dies_on="sick", oom_above=2)
    good, poison, sick = (fake.encode(a_content(text), [SPAM])[0] for text in ("fine", "a poison", "a sick"))
    with pytest.raises(RuntimeError, match="raise_on"):
        fake.score([good, poison])
    with pytest.raises(DeviceError, match="dies_on"):
        fake.score([good, sick])
    with pytest.raises(MemoryError, match="step of 3"):
        fake.score([good, good, good])
    assert len(fake.score([good, good])) == 2


def test_options_come_in_the_name() -> None:
    fake = models.load(ModelSettings(name="fake?step_ms=1.5&raise_on=x&oom_above=3"))
    assert isinstance(fake, Fake)
    assert (fake.step_ms, fake.raise_on, fake.oom_above) == (1.5, "x", 3)
    with pytest.raises(ConfigError, match="no option speed"):
        models.load(ModelSettings(name="fake?speed=1"))
    with pytest.raises(ConfigError, match="could not convert"):
        models.load(ModelSettings(name="fake?step_ms=fast"))


def test_a_text_is_cut_into_windows_and_of_too_many_some_are_kept() -> None:
    settings = ModelSettings(name="fake?window_words=2", max_windows=3)
    fake = models.load(settings)
    windows = fake.encode(a_content("a b c violates:hate e f g h i"), [HATE])
    assert [getattr(window, "text", "") for window in windows] == ["a b", "e f", "i"]
    assert windows.problems == (Problem(Reason.TEXT_TOO_LONG, "text"),)
    fitting = fake.encode(a_content("a b c violates:hate e f"), [HATE])
    assert ([round(row[0].probability) for row in fake.score(fitting)], fitting.problems) == ([0, 1, 0], ())


def test_a_nonce_makes_two_scores_of_a_post_differ_and_changes_no_decision() -> None:
    fake = models.load(ModelSettings(name="fake?nonce=1"))
    (item,) = fake.encode(a_content("violates:spam"), [SPAM])
    first, second = fake.score([item])[0][0], fake.score([item])[0][0]
    assert first.mass != second.mass
    assert min(mass_of(first), mass_of(second)) > 0.9
    assert first.probability == second.probability


def test_the_package_loads_the_fake_without_torch() -> None:
    code = (
        "import sys, moderation.models as m; from moderation.settings import ModelSettings;"
        "m.load(ModelSettings(name='fake')); sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["openai:m", "decisions:m", "systemone:org/m"])
def test_a_model_behind_a_server_has_no_checkpoint(name: str) -> None:
    assert models.is_remote(name)
    for use in (lambda: models.load(ModelSettings(name=name)), lambda: models.describe(name)):
        with pytest.raises(ConfigError, match="behind a server"):
            use()


@pytest.mark.parametrize("name", ["demo", "fake?step_ms=1", "openai/clip", "C:/models/phi", "openai", "./openai:m"])
def test_other_names_are_no_model_behind_a_server(name: str) -> None:
    assert not models.is_remote(name)
