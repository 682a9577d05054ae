"""How far a score moves with its batch, and whether a verdict does: `moderation bench agreement`.

Posts of words are scored alone, then in mixed batches of random sizes with random questions. The first half of the
batches gives the spread: twice the largest move of a probability. In the second half, verdicts are compared at
thresholds one spread above and below each score, and at usual thresholds that are further away. No verdict may flip.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

from moderation.bench import engine as engine_bench
from moderation.bench import sizes, timing
from moderation.bench.learned import Learned
from moderation.models.phi3.family import Window
from moderation.models.phi3.network import Phi3Network
from moderation.models.phi3.preprocessing import Crops
from moderation.models.shared import fp8
from moderation.models.shared.engine import Engine
from moderation.models.shared.tree import Tree
from moderation.types import Score

SIZE = sizes.Size(384, 1024, 4, 2, "drawn")
POSTS, POLICIES, MAX_POSTS = 24, 8, 6
SHIPPED = (0.5, 0.9)  # review, remove
SENTENCES = """
Selling my grandfather's hunting rifle, cash only, meet me behind the station tonight.
Our dog had five puppies this morning and all of them are doing well.
You people are vermin and somebody should drive you out of this town.
Win a new phone today, click the link and enter your bank card.
The film was far too long, but the music at the end made me cry.
I cannot go on any more, nobody would notice if I were gone.
Fresh bread and coffee every morning from seven at the corner shop.
Breaking news: the bridge is closed after a lorry lost its load.
""".strip().splitlines()
CLAUSES = (
    "weapons or ammunition", "insults against a group", "a fraud or a scam", "self harm",
    "sexual content", "private addresses", "threats of violence", "illegal drugs",
)  # fmt: skip

console = Console(soft_wrap=True, highlight=False, emoji=False)


@dataclass(frozen=True, slots=True)
class Agreement:
    """The figures of one precision: log-odds and probabilities, each the largest over all questions of all batches."""

    name: str
    alone_log_odds: float  # a tree against separate prompts
    batch_log_odds: float  # a mixed batch against the post alone
    spread: float  # of probability: twice the largest move in the first half of the batches
    flips: int  # in the second half, at the score +- spread
    flips_shipped: int  # at the shipped policies' thresholds, where the score is further from them than the spread
    verdicts: int  # that were compared
    from_float32: float  # log-odds, of the post alone
    verdicts_as_float32: float  # share, at the shipped thresholds


def main(gguf: Path | None, batches: int, out: Path | None, threads: int) -> int:
    """Prints a table; 1 when a verdict flipped or float32 moved by more than 1e-5."""
    if threads:
        torch.set_num_threads(threads)
    network, ids, what = _network(gguf)
    trees = [[_tree(post, (policy,), ids) for policy in range(POLICIES)] for post in range(POSTS)]
    exact = _alone(Engine(network, *ids[2], feature_bytes=0), trees)
    agreements: list[Agreement] = []
    for name in ("float32", "bfloat16", "fp8"):
        if name != "float32":
            network.to(torch.bfloat16)
        if name == "fp8":
            fp8.use(network.model.layers)
        few = batches if name != "fp8" else batches // 10  # on a CPU, eight bits are slow
        agreements.append(_measure(name, Engine(network, *ids[2], feature_bytes=0), ids, exact, few))
        _print(agreements[-1], few)
    if out:
        where = timing.machine(network.device)
        content = {
            "weights": what,
            "batches": batches,
            "machine": where,
            "precisions": [asdict(agreement) for agreement in agreements],
        }
        out.write_text(json.dumps(content, indent=1) + "\n")
    steady = all(agreement.flips == agreement.flips_shipped == 0 for agreement in agreements[:2])
    return 0 if steady and agreements[0].spread <= 1e-5 else 1


Ids = tuple[
    list[tuple[int, ...]], list[tuple[int, ...]], tuple[Sequence[int], Sequence[int]]
]  # of posts, of questions, of Yes and No


def _network(gguf: Path | None) -> tuple[Phi3Network, Ids, str]:
    if gguf is None:
        drawn = random.Random(0)  # noqa: S311 - no secret
        posts, questions = (
            [tuple(drawn.choices(range(300, 30_000), k=drawn.randint(10, 40))) for _ in range(count)]
            for count in (POSTS, POLICIES)
        )
        made = sizes.network(sizes.config(SIZE), dtype=torch.float32, device=torch.device("cpu"))
        return made, (posts, questions, ((engine_bench.YES,), (engine_bench.NO,))), "drawn"
    learned = Learned(gguf)
    texts = [f"{sentence} {second}" for sentence in SENTENCES for second in SENTENCES[:3]]
    posts = [learned.words(f"A user wrote: {text}\n") for text in texts]
    ask = " Question: does this post contain {}? Answer Yes or No.\nAnswer:"
    questions = [learned.words(ask.format(clause)) for clause in CLAUSES]
    return learned.network, (posts, questions, (learned.words(" Yes")[:1], learned.words(" No")[:1])), gguf.name


def _tree(post: int, policies: Sequence[int], ids: Ids) -> Tree:
    return Tree(ids[0][post], tuple(ids[1][policy] for policy in policies))


def _alone(engine: Engine[Crops], trees: Sequence[Sequence[Tree]]) -> list[list[Score]]:
    """Each question as a prompt of its own, in a step of its own."""
    return [[engine.score([_window(tree)])[0][0] for tree in row] for row in trees]


def _window(tree: Tree) -> Window:
    return Window(tree, (), context=4096)


def _measure(name: str, engine: Engine[Crops], ids: Ids, exact: list[list[Score]], batches: int) -> Agreement:
    every = range(POLICIES)
    alone = [engine.score([_window(_tree(post, every, ids))])[0] for post in range(POSTS)]
    prompts = _alone(engine, [[_tree(post, (policy,), ids) for policy in every] for post in range(POSTS)])
    drawn = random.Random(1)  # noqa: S311
    moved = spread = 0.0
    flips = flips_shipped = verdicts = 0
    for number in range(batches):
        asked = [
            (post, drawn.sample(every, k=drawn.randint(1, POLICIES)))
            for post in drawn.choices(range(POSTS), k=drawn.randint(1, MAX_POSTS))
        ]
        rows = engine.score([_window(_tree(post, policies, ids)) for post, policies in asked])
        for (post, policies), row in zip(asked, rows, strict=True):
            for policy, score in zip(policies, row, strict=True):
                before = alone[post][policy]
                moved = max(moved, abs(score.margin - before.margin))
                if number < batches // 2:
                    spread = max(spread, 2 * abs(score.probability - before.probability))
                    continue
                near = (before.probability - spread, before.probability + spread)
                far = [threshold for threshold in SHIPPED if abs(before.probability - threshold) > spread]
                flips += any((score.probability > threshold) != (before.probability > threshold) for threshold in near)
                flips_shipped += any(
                    (score.probability > threshold) != (before.probability > threshold) for threshold in far
                )
                verdicts += 1
    pairs = [(a, b) for row, other in zip(alone, exact, strict=True) for a, b in zip(row, other, strict=True)]
    same = [all((a.probability > threshold) == (b.probability > threshold) for threshold in SHIPPED) for a, b in pairs]
    return Agreement(
        name=name,
        alone_log_odds=max(
            abs(a.margin - b.margin)
            for row, other in zip(alone, prompts, strict=True)
            for a, b in zip(row, other, strict=True)
        ),
        batch_log_odds=moved,
        spread=spread,
        flips=flips,
        flips_shipped=flips_shipped,
        verdicts=verdicts,
        from_float32=max(abs(a.margin - b.margin) for a, b in pairs),
        verdicts_as_float32=sum(same) / len(same),
    )


def _print(agreement: Agreement, batches: int) -> None:
    parts = (
        f"tree against prompts {agreement.alone_log_odds:.1e} log-odds",
        f"in {batches} batches moved by {agreement.batch_log_odds:.1e} log-odds, "
        f"spread {agreement.spread:.1e} of probability",
        f"flips at score +- spread {agreement.flips}, at {SHIPPED} {agreement.flips_shipped}, of {agreement.verdicts}",
        f"from float32 {agreement.from_float32:.1e} log-odds, {agreement.verdicts_as_float32:.1%} of verdicts the same",
    )
    console.print(f"{agreement.name:<9} {'; '.join(parts)}")
