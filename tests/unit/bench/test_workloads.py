"""The bench's posts cost what they cost in the service, and are cut into the service's steps."""

from __future__ import annotations

from collections.abc import Sequence

from moderation.bench import sizes, workloads
from moderation.bench.sizes import SIZES
from moderation.bench.workloads import KINDS, MIX
from moderation.models.contract import Windows
from moderation.models.fake import FakeEncoded
from moderation.types import Content, Question
from tests.support.batching import GatedModel, behind_a_busy_device

FULL = sizes.config(SIZES["full"])
KIND_OF = [kind for kind, count in MIX.items() for _ in range(count)]


class Priced(GatedModel):
    """A content's text is the number of a post of the mix; it costs what that costs."""

    def __init__(self, costs: Sequence[int]) -> None:
        super().__init__()
        self._costs = costs

    def encode(self, content: Content, questions: Sequence[Question]) -> Windows[FakeEncoded]:
        cost = self._costs[int(content.text)] if content.text.isdigit() else 1
        return Windows([FakeEncoded(content.text, tuple(question.policy_id for question in questions), cost)])


def test_a_post_costs_its_tokens_and_its_crops() -> None:
    for kind, crops in (("text", 0), ("image4", 5), ("image16", 17)):
        post = workloads.post(KINDS[kind], 5, FULL, seed=0)
        assert sum(map(len, post.pictures)) == crops
        assert post.tokens == post.tree.tokens + crops * FULL.crop_work


async def test_steps_are_cut_as_the_batcher_cuts_them() -> None:
    every = {kind: workloads.post(some, 5, FULL, seed=0) for kind, some in KINDS.items()}
    places = [7, 0, 12, 19, 3, 15, 1, 18, 10, 2, 11, 4, 13, 17, 5, 14, 6, 16, 8, 9]
    posts = [every[KIND_OF[place]] for place in places]
    for budget in (1000, 4096, 8192):  # less than the largest post takes, and more
        model = Priced([post.tokens for post in posts])
        async with behind_a_busy_device(model, *map(str, range(len(posts))), batch_tokens=budget):
            model.release()
        cut = iter(range(len(posts)))
        expected = [[str(next(cut)) for _ in step] for step in workloads.steps(posts, budget)]
        assert model.steps[1:] == expected
        assert len(expected) > 3
