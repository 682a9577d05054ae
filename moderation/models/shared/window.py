"""Windows: as much of a post as one prompt can hold, with all its questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from moderation.errors import PostError
from moderation.models.shared.engine import Part
from moderation.models.shared.picture import EncodedPicture
from moderation.models.shared.tree import Tree
from moderation.types import Reason

SERVICE_WORDS = 128  # tokens, rounded up: instructions, fences and the template
LONGEST_QUESTION = 1024  # tokens; a quarter of the context where that is less


def longest_question(context: int) -> int:
    """Tokens that a question may take. So the other policies do not decide what fits beside a post."""
    return min(LONGEST_QUESTION, context // 4)


def room_for_pictures(context: int) -> int:
    """Tokens that pictures may take of a prompt: what a question, the service's words and some text leave."""
    return (context - longest_question(context)) * 3 // 4 - SERVICE_WORDS


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One window of a post's text, pictures and all its questions. In the ids of `tree`, -i is picture i's, from 1.

    Windows of one post share the picture objects, so features are computed once when the windows meet in a batch.
    """

    tree: Tree
    pictures: tuple[EncodedPicture, ...]
    picture_work: int = 0  # the tower's, in tokens of the decoder; counted once for each picture of a post

    @property
    def tokens(self) -> int:
        """What the window costs a step."""
        return sum(part.tree.tokens for part in self.parts) + self.picture_work

    @property
    def parts(self) -> Sequence[Part]:
        """One part: the network computes all questions alike."""
        return [Part(self.tree, list(range(len(self.tree.branches))))]


def check_slots(shared: Sequence[int], slots: Sequence[int]) -> None:
    """Raises PostError unless the slots in the ids are those of the pictures, whole and in order."""
    runs = [(-id - 1, sum(1 for _ in run)) for id, run in groupby(id for id in shared if id < 0)]
    if runs != list(enumerate(slots)):
        raise PostError(Reason.MODEL_FAILED, f"the prompt has image slots {runs} for pictures of {list(slots)} tokens")
