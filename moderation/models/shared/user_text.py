"""A post's text as stretches of ids, each for one window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from moderation.models.spread import between, spread
from moderation.settings import ModelSettings

# Of UTF-8. Prose has at most six, in any script and by any published tokenizer. A text with more bytes for all tokens
# of its windows is not tokenised as a whole, which would take seconds.
BYTES_A_TOKEN = 8


class UserText:
    """A post's text. Of a very long one, only the stretches that are judged become ids."""

    def __init__(self, text: str, tokenise: Callable[[str], list[int]], settings: ModelSettings) -> None:
        self._data = text.encode()
        self._tokenise = tokenise
        self._overlap = settings.window_overlap
        most = settings.max_windows * (settings.window_tokens - self._overlap) + self._overlap
        self._ids = tokenise(text) if len(self._data) <= BYTES_A_TOKEN * most else None

    def __len__(self) -> int:
        """Tokens; of a very long text, about."""
        return len(self._data) // BYTES_A_TOKEN if self._ids is None else len(self._ids)

    def stretches(self, room: int) -> int:
        """How many stretches of `room` tokens the text takes; of a very long text, more than `max_windows`."""
        if self._ids is not None:
            return sum(1 for _ in cut(self._ids, room, self._shared(room)))
        return len(self._data) // (BYTES_A_TOKEN * (room - self._shared(room))) + 1

    def some(self, room: int, most: int) -> Sequence[list[int]]:
        """At most `most` stretches of at most `room` ids, evenly spread."""
        if self._ids is not None:
            stretches = list(cut(self._ids, room, self._shared(room)))
            return [stretches[place] for place in spread(len(stretches), most)]
        size = BYTES_A_TOKEN * room
        begins = spread(len(self._data) - size + 1, most)
        ids = [self._tokenise(between(self._data, begin, begin + size)) for begin in begins]
        return [each[:room] if place == 0 or place < most - 1 else each[-room:] for place, each in enumerate(ids)]

    def _shared(self, room: int) -> int:
        return min(self._overlap, room // 2)


def cut(ids: list[int], size: int, overlap: int) -> Iterator[list[int]]:
    """Stretches of `size` ids that cover all ids. Each overlaps the one before by `overlap` ids or more."""
    if len(ids) <= size:
        yield ids
        return
    for start in range(0, len(ids) - overlap, size - overlap):
        first = min(start, len(ids) - size)  # the last one is whole, too
        yield ids[first : first + size]
