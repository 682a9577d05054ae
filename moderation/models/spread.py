"""What is judged of a content that takes more windows than a limit allows: parts spread over it."""

from __future__ import annotations

from collections.abc import Sequence


def spread(count: int, most: int) -> Sequence[int]:
    """At most `most` of the numbers below `count`, evenly apart. The first, and from two on the last, is among them."""
    if count <= most:
        return range(count)
    if most == 1:
        return (0,)
    return [place * (count - 1) // (most - 1) for place in range(most)]


def kept(groups: int, stretches: int, most: int) -> tuple[int, int]:
    """How many groups of pictures and how many stretches of text fit into `most` windows, each group with each stretch.

    The smaller of the two shares that are kept is as large as it can be. Of a text with several stretches at least two
    are kept, where `most` allows it.
    """
    if groups * stretches <= most:
        return groups, stretches
    least = min(2, stretches, most)
    fitting = [(group, min(stretches, most // group)) for group in range(1, min(groups, most // least) + 1)]
    return max(fitting, key=lambda pair: (min(pair[0] * stretches, pair[1] * groups), pair[0] * pair[1]))


def between(data: bytes, begin: int, end: int) -> str:
    """The text between two places in its UTF-8. A place within a character counts as that character's beginning."""
    return data[_boundary(data, begin) : _boundary(data, end)].decode()


def _boundary(data: bytes, place: int) -> int:
    while place < len(data) and data[place] & 0xC0 == 0x80:
        place -= 1
    return place
