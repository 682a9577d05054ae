"""How much the tree saves: posts a second against a full prompt a policy, all measured in this run.

    python -m tests.bench.tree [FOLDER]      default: the seeded checkpoint

tree    one forward pass a post, the service's default; beside it the same with 8 posts a pass
plain   our decoder, one full prompt a policy, pictures seen anew for each
hosted  the same prompts on transformers' Phi3ForCausalLM and CLIPVisionModel, batch 1: the original's way

Encoding is left out of all of them. Exits non-zero when the ways disagree on a score.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from moderation.models import phi3_vision, tree
from moderation.models.phi3_vision import Phi3Vision, Window
from moderation.settings import ModelSettings
from moderation.types import Question
from tests.small_model import Reference, a_content, a_picture, alone, seeded_folder

POLICIES = (1, 5, 20)
SECONDS = 1.0  # a measurement lasts, at least; three rounds of them
ROUNDS = 3
BATCH = 8


def main(folder: Path) -> int:
    torch.set_num_threads(1)  # two that wait for each other on a busy machine measure the machine
    model = phi3_vision.load(ModelSettings(name=str(folder), device="cpu"))
    reference = Reference(folder)
    print(f"{platform.machine()}, 1 thread, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "transformers")), "float32", folder.name)
    print(
        f"{'post':<7}{'policies':>9}{'tokens':>8} | posts/s {'tree':>8}{'tree x8':>9}{'plain':>8}{'hosted':>8}", end=""
    )
    print(f" | tree/plain tree/hosted x8/hosted | {'apart':>8}")
    worst = 0.0
    words = "dog cat gun money hate love click link free sale " * 12
    for label, content in {"text": a_content(words), "image": a_content(words, a_picture(640, 480))}.items():
        for count in POLICIES:
            (window,) = model.encode(content, [_policy(number) for number in range(count)])
            rates, apart = _measure(model, reference, window)
            worst = max(worst, apart)
            one, many, plain, hosted = rates
            print(
                f"{label:<7}{count:>9}{window.tokens:>8} | {'':<8}{one:>8.2f}{many:>9.2f}{plain:>8.2f}{hosted:>8.2f}",
                end="",
            )
            print(f" | {one / plain:>10.2f}{one / hosted:>12.2f}{many / hosted:>10.2f} | {apart:>8.1e}", flush=True)
    return 0 if worst < 1e-4 else 1


def _policy(number: int) -> Question:
    """About 150 tokens."""
    return Question(
        f"policy-{number}", f"Policy {number}. " + "Does this post show a person with a gun for sale? " * 13
    )


def _measure(model: Phi3Vision, reference: Reference, window: Window) -> tuple[list[float], float]:
    """(posts a second of each way, largest difference in log-odds between them)."""
    yes, no = model.tokenizer.word("Yes"), model.tokenizer.word("No")
    branches = range(len(window.tree.branches))

    def hosted() -> list[float]:
        rows = [reference.logits(window.tree.shared + window.tree.branches[i], window.pictures) for i in branches]
        return [score.margin for score in tree.answers(torch.stack(rows), yes, no)]

    def plain() -> list[float]:
        return [alone(model, window, branch).margin for branch in branches]

    def one() -> list[float]:
        return [score.margin for score in model.score([window])[0]]

    def many() -> list[float]:
        # Copies are other posts to the model: their pictures are other objects, and seen each on their own.
        copies = [
            replace(window, pictures=tuple(type(p)(p.pixels.clone(), p.rows, p.cols) for p in window.pictures))
            for _ in range(BATCH)
        ]
        return [score.margin for score in model.score(copies)[-1]]

    ways: list[tuple[Callable[[], list[float]], int]] = [(one, 1), (many, BATCH), (plain, 1), (hosted, 1)]
    answers = torch.tensor([way() for way, _ in ways], dtype=torch.float64)  # warms up, too
    rates: list[list[float]] = [[] for _ in ways]
    for _ in range(ROUNDS):
        for (way, posts), found in zip(ways, rates, strict=True):
            found.append(_rate(way, posts))
    return [statistics.median(found) for found in rates], float((answers - answers[-1]).abs().max())


def _rate(way: Callable[[], object], posts: int) -> float:
    start, runs = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        way()
        runs += 1
    return posts * runs / (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else seeded_folder()))
