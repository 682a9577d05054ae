"""Frames that are shown long and frames unlike the others are judged first; what stands for too little is said."""

from __future__ import annotations

from random import Random

import pytest
from PIL import Image as pil

from moderation.media.choice import DIFFERENT, NEAR, NEAR_LONG, SAME, Choice, Likeness, Pictures
from tests.support.animations import HEIGHT, SIZE, WIDTH, a_person, a_photo, ordinary, write

BLINK_S = 0.05


def chosen(shown: list[tuple[pil.Image, float]], most: int = 8, *, loops: bool = True) -> Choice:
    pictures = Pictures()
    for number, (picture, seconds) in enumerate(shown):
        pictures.add(number, picture, seconds)
    return pictures.choose(most, loops=loops)


def photos(count: int, seed: int = 1) -> list[pil.Image]:
    return [a_photo(Random(seed * 1_000 + number)) for number in range(count)]


def distance(one: pil.Image, other: pil.Image) -> float:
    return Likeness(one).distance(Likeness(other))


def test_a_frame_that_is_shown_for_a_minute_is_judged_and_stands_for_the_animation() -> None:
    shown = [(photo, 60.0 if number == 6 else BLINK_S) for number, photo in enumerate(photos(20))]
    choice = chosen(shown, most=4)
    assert 6 in choice.numbers
    assert choice.covered


@pytest.mark.parametrize("bad", [1, 5, 13, 19])
def test_one_frame_unlike_the_others_is_judged(bad: int) -> None:
    photo, other = photos(2)
    shown = [(other if number == bad else photo, BLINK_S) for number in range(20)]
    assert chosen(shown) == Choice((0, bad), covered=True)


def test_of_twenty_different_frames_some_are_judged_and_the_rest_is_said() -> None:
    choice = chosen([(photo, BLINK_S) for photo in photos(20)])
    assert len(choice.numbers) == 8
    assert choice.numbers[0] == 0
    assert not choice.covered


def test_frames_for_nine_tenths_of_the_time_are_enough_where_no_other_is_shown_long() -> None:
    one, *others = photos(11)
    assert chosen([(one, 1.0), *((other, 0.01 * 2) for other in others[:5])], most=1).covered
    assert not chosen([(one, 1.0), *((other, BLINK_S) for other in others)], most=1).covered


@pytest.mark.parametrize(("seconds", "covered"), [(1.0, True), (1.1, False)])
def test_a_frame_that_is_shown_for_over_a_second_must_be_judged_or_seen(seconds: float, *, covered: bool) -> None:
    one, other = photos(2)
    assert chosen([(one, 60.0), (other, seconds)], most=1).covered is covered


def test_the_time_of_a_picture_is_that_of_all_its_frames() -> None:
    one, other = photos(2)
    assert not chosen([(one, 30.0), (other, 0.6), (one, 30.0), (other, 0.6)], most=1).covered


def test_the_last_frame_of_an_animation_that_ends_counts_as_shown_long() -> None:
    one, other = photos(2)
    shown = [(one, 60.0), (other, BLINK_S)]
    assert chosen(shown, most=1).covered
    assert not chosen(shown, most=1, loops=False).covered
    assert chosen(shown, most=2, loops=False) == Choice((0, 1), covered=True)


def test_frames_without_a_time_are_shown_for_as_long_as_browsers_show_them() -> None:
    one, other = photos(2)
    assert chosen([(one, 0.9), (other, 0.0)], most=1).covered, "a tenth of a second"
    assert not chosen([(one, 0.85), (other, 0.01)], most=1).covered
    assert chosen([(one, 0.85), (other, 0.02)], most=1).covered


def test_equal_frames_are_judged_once() -> None:
    assert chosen([(photo, BLINK_S) for photo in photos(1) * 50]) == Choice((0,), covered=True)


def test_decoys_do_not_hide_writing_that_can_be_read() -> None:
    photo, *decoys = photos(30)
    written = photo.copy()
    write(written, "meet us there tonight", HEIGHT / 2, 14)
    shown = [(photo, 1.0), *((decoy, 0.02) for decoy in decoys), (written, 1.5)]
    assert len(shown) - 1 in chosen(shown).numbers


def test_distances() -> None:
    """A picture of another kind is far, a moving person near; writing is too far for what can be read."""
    for seed in range(10):
        photo, other = photos(2, seed)
        person, moved, written, pasted = a_person(Random(seed)), photo.copy(), photo.copy(), photo.copy()
        before = photo.copy()
        person.draw(before, WIDTH / 2, HEIGHT / 3, 60, 0.2)
        person.draw(moved, WIDTH / 2 + 3, HEIGHT / 3, 60, -0.2)
        write(written, "meet us there tonight")
        pasted.paste(other.resize((WIDTH // 3, HEIGHT // 3)), (20, 20))
        assert distance(photo, photo) == 0
        assert distance(photo, other) > 2 * NEAR
        assert SAME < distance(before, moved) < NEAR
        assert distance(photo, written) > NEAR_LONG
        assert distance(photo, pasted) > NEAR_LONG
        assert distance(photo, photo.point(lambda level: min(255, level + 3))) <= SAME < DIFFERENT


def test_a_pattern_of_the_same_mean_is_another_picture() -> None:
    """Writing in stripes on grey would be the ground if only means were compared."""
    grey, striped = pil.new("L", SIZE, 128), pil.new("L", SIZE, 128)
    for x in range(40, 100, 2):
        striped.paste(0, (x, 30, x + 1, 90))
        striped.paste(255, (x + 1, 30, x + 2, 90))
    assert distance(grey.convert("RGB"), striped.convert("RGB")) > 2 * NEAR


def test_transparent_pictures_are_compared_on_white_and_on_black() -> None:
    white, black = (pil.new("RGBA", SIZE, (level, level, level, 255)) for level in (255, 0))
    clear = pil.new("RGBA", SIZE)
    assert distance(white, clear) == distance(black, clear) == 255


def test_few_ordinary_animations_go_to_review() -> None:
    animations = []
    for animation in ordinary(2):
        shown = list(zip(animation.pictures, animation.seconds, strict=True))
        animations.append((animation.name, chosen(shown)))
    uncovered = [name for name, choice in animations if not choice.covered]
    assert len(uncovered) / len(animations) < 0.05, uncovered
    assert sum(len(choice.numbers) for _, choice in animations) / len(animations) < 8
