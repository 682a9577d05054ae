"""The seam to a model: anything that a model raises or returns becomes scores or a failure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from moderation import models
from moderation.errors import DeviceError, PostError
from moderation.models.checked import CheckedModel, Failure, Item
from moderation.models.contract import DeviceMemory, Encoded, Windows
from moderation.models.fake import Fake, FakeEncoded
from moderation.settings import ModelSettings
from moderation.types import Content, Problem, Question, Reason, Score
from tests.support.misbehaving_model import ENCODE, SCORE, SECRET, STRIKES, Misbehaving

LIMIT = Problem(Reason.TEXT_TOO_LONG, "text")
QUESTIONS = (Question("spam", "spam"), Question("hate", "hate"))
RAISED = [kind for kind in STRIKES if kind not in ("device", "hang", "abort")]


def encoded(model: CheckedModel, *texts: str) -> list[Item]:
    return [item for text in texts for item in model.encode(Content(text, (), ""), QUESTIONS)]


@pytest.mark.parametrize("kind", SCORE)
def test_a_result_that_breaks_the_contract_is_a_failed_step(kind: str) -> None:
    model = CheckedModel(Misbehaving())
    assert model.score(encoded(model, "a", f"fault:score:{kind}", "b")) is Failure.MALFORMED
    assert not isinstance(model.score(encoded(model, "a", "b")), Failure)


@pytest.mark.parametrize("kind", RAISED)
def test_anything_that_score_raises_is_a_failed_step(kind: str) -> None:
    model = CheckedModel(Misbehaving())
    with capture_logs() as events:
        outcome = model.score(encoded(model, f"fault:score:{kind}"))
    assert outcome is (Failure.TOO_LARGE if kind == "memory" else Failure.RAISED)
    assert [event["event"] for event in events] == ["step_failed"]
    assert SECRET not in str(events)


@pytest.mark.parametrize("kind", RAISED)
def test_anything_that_look_ahead_raises_is_reported(kind: str) -> None:
    model = CheckedModel(Misbehaving())
    assert not model.look_ahead(encoded(model, f"fault:look_ahead:{kind}"))
    assert model.look_ahead(encoded(model, "a"))


@pytest.mark.parametrize("kind", [*RAISED, *ENCODE])
def test_anything_that_encode_raises_or_returns_is_the_posts_failure(kind: str) -> None:
    model = CheckedModel(Misbehaving())
    with pytest.raises(PostError) as caught:
        encoded(model, f"fault:encode:{kind}")
    assert caught.value.reason is Reason.MODEL_FAILED
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None


def test_what_a_limit_left_out_stays_with_the_windows() -> None:
    class Limited(Fake):
        def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
            return replace(super().encode(content, questions), problems=(LIMIT,))

    windows = CheckedModel(Limited()).encode(Content("a", (), ""), QUESTIONS)
    assert (len(windows), windows.problems) == (1, (LIMIT,))


def test_a_device_error_passes_at_each_seam() -> None:
    model = CheckedModel(Misbehaving())
    with pytest.raises(DeviceError):
        encoded(model, "fault:encode:device")
    with pytest.raises(DeviceError):
        model.score(encoded(model, "fault:score:device"))
    with pytest.raises(DeviceError):
        model.look_ahead(encoded(model, "fault:look_ahead:device"))


def test_rows_that_the_model_keeps_and_changes_are_copied() -> None:
    class Reusing(Fake):
        rows: list[list[Score]]

        def score(self, batch: Sequence[Encoded]) -> Sequence[Sequence[Score]]:
            self.rows = [list(row) for row in super().score(batch)]
            return self.rows

    reusing = Reusing()
    model = CheckedModel(reusing)
    scores = model.score(encoded(model, "violates:spam"))
    reusing.rows[0].clear()
    assert not isinstance(scores, Failure)
    assert [score.probability > 0.5 for score in scores[0]] == [True, False]


class Gauged(Fake):
    """Its numbers are what a test says; an exception is raised."""

    def __init__(self) -> None:
        super().__init__()
        self.says: object = (3, 2)

    @property
    def pictures(self) -> tuple[int, int]:
        return self._say()  # type: ignore[return-value]

    def device_memory(self) -> DeviceMemory | None:
        return self._say()  # type: ignore[return-value]

    def _say(self) -> object:
        if isinstance(self.says, BaseException):
            raise self.says
        return self.says


@pytest.mark.parametrize("says", [RuntimeError(SECRET), SystemExit(SECRET), None, 7, ("x", "y"), (1, 1)])
def test_a_gauge_that_fails_stops_nothing_and_no_counter_falls(says: object) -> None:
    gauged = Gauged()
    model = CheckedModel(gauged)
    assert model.pictures == (3, 2)
    gauged.says = says
    assert model.pictures == (3, 2)
    assert model.device_memory() is None
    gauged.says = DeviceMemory("cuda:0", 1, 2, 3)
    assert model.device_memory() == gauged.says


def test_a_model_that_is_not_measured_has_no_numbers() -> None:
    model = CheckedModel(Fake())
    assert (model.pictures, model.device_memory(), model.looks_ahead) == ((0, 0), None, False)


@pytest.mark.parametrize(
    ("score", "sound"),
    [
        (Score(1 / (1 + math.exp(-2.0)), 2.0, 0.9), True),
        (Score(0.0, -800.0, 0.0), True),
        (Score(1.0, 800.0, 1.0), True),
        (Score(0.8808, 2.0, 0.9), True),  # as a family that rounds might
        (Score(0.87, 2.0, 0.9), False),
        (Score(1.0 + 1e-9, 40.0, 0.9), False),
        (Score(0.0, -math.inf, 0.9), False),
        (Score(1.0, math.inf, 0.9), False),
        (Score(math.nan, 0.0, 0.9), False),
        (Score(0.5, math.nan, 0.9), False),
        (Score(0.5, 0.0, math.nan), False),
        (Score(0.5, 0.0, 1.1), False),
    ],
)
def test_a_score_is_sound_when_its_numbers_can_be_true_together(score: Score, sound: bool) -> None:
    assert score.sound is sound


@pytest.mark.parametrize("kind", RAISED)
def test_a_model_that_fails_while_it_is_loaded_ends_in_an_error_without_its_text(
    kind: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(models.MODELS, "misbehaving", "tests.support.misbehaving_model:load")
    settings = ModelSettings(name=f"misbehaving?load={kind}")
    with ThreadPoolExecutor(1) as pool, pytest.raises(DeviceError) as caught:
        pool.submit(models.load, settings).result()
    assert caught.value.__context__ is None
    captured = capfd.readouterr()
    assert "model_load_failed" in captured.out + captured.err
    assert SECRET not in captured.out + captured.err + str(caught.value)


def test_a_person_at_the_terminal_may_interrupt_the_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "misbehaving", "tests.support.misbehaving_model:load")
    with pytest.raises(KeyboardInterrupt):
        models.load(ModelSettings(name="misbehaving?load=interrupt"))
