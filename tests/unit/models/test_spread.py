"""Of too many windows, those that are judged: the first, the last, and others evenly between them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.models.spread import between, kept, spread

COUNTS, MOST = st.integers(1, 400), st.integers(1, 64)


@given(COUNTS, MOST)
def test_the_first_and_the_last_are_kept_and_others_evenly_between_them(count: int, most: int) -> None:
    places = list(spread(count, most))
    assert len(places) == min(count, most)
    assert places[0] == 0
    assert most == 1 or places[-1] == count - 1
    gaps = {right - left for left, right in pairwise(places)}
    assert min(gaps, default=1) > 0
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


@given(COUNTS, COUNTS, MOST)
def test_what_is_kept_fits_and_leaves_neither_pictures_nor_the_end_of_the_text_out(
    groups: int, stretches: int, most: int
) -> None:
    first, some = kept(groups, stretches, most)
    assert first * some <= most
    assert 1 <= first <= groups
    assert min(2, stretches, most) <= some <= stretches
    assert ((first, some) == (groups, stretches)) == (groups * stretches <= most)
    others = [(group, min(stretches, most // group)) for group in range(1, min(groups, most) + 1)]
    share = min(first / groups, some / stretches)
    assert all(share >= min(a / groups, b / stretches) for a, b in others if b >= min(2, stretches, most))


@pytest.mark.parametrize(
    ("groups", "stretches", "shown"),
    [(1, 40, (1, 16)), (20, 1, (16, 1)), (4, 20, (2, 8)), (9, 2, (8, 2)), (2, 9, (2, 8)), (300, 300, (4, 4))],
)
def test_pictures_and_text_share_sixteen_windows(groups: int, stretches: int, shown: tuple[int, int]) -> None:
    assert kept(groups, stretches, 16) == shown


@given(st.text(st.characters(codec="utf-8"), max_size=60), st.integers(0, 250), st.integers(0, 250))
def test_no_character_is_cut(text: str, begin: int, end: int) -> None:
    data = text.encode()
    begin, end = sorted((min(begin, len(data)), min(end, len(data))))
    parts = between(data, 0, begin), between(data, begin, end), between(data, end, len(data))
    assert "".join(parts) == text
