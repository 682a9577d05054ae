"""Trains the small checkpoint: `python -m moderation.training.train OUT --work FOLDER`.

First the tower learns to ground pictures in the decoder's words. Then the whole network learns to answer, six policies
for each post. The lessons of a step depend on the seed and the step's number alone, so a run that was stopped continues
as if it had not been.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from moderation.training import lessons, words
from moderation.training.evaluate import auc
from moderation.training.lessons import Course, Shelf
from moderation.training.student import Student

PICTURES = 60_000
HELD_OUT = 2000
GROUND_BATCH, BATCH = 128, 24
RATES = 3e-3, 2e-3  # learning rates of the two parts, for Muon; AdamW takes two thirds
MORE_PICTURES = 24, 64  # in a step of answers, beyond those of its posts, early and late
RARE = 3.0  # weight of facts that are so
CHECKED_PICTURES, CHECKED_POSTS = 512, 192  # held-out ones, in each check
CHECKS = {
    "phrased as trained": lessons.HELD_OUT,
    "unseen phrasings": lessons.HELD_OUT_PHRASINGS,
    "held-out groups": lessons.HELD_OUT_POLICIES,
}
EARLY = 600  # steps of answers, before policies come in all phrasings
WARM_UP = 50
COOLING = 0.35  # the share of a part's steps in which the rate falls
SETTLED = 0.5  # the share of the rate that the tower takes while answers are learned


@dataclass(frozen=True, slots=True)
class Plan:
    """A run: its folders, its seed and its length."""

    out: Path
    work: Path
    seed: int
    pictures: int
    grounding: int  # steps
    answers: int  # steps after those
    every: int
    workers: int

    def shelf(self, *, training: bool) -> Shelf:
        count = self.pictures if training else HELD_OUT
        return lessons.shelf(self.work, seed=self.seed, count=count, training=training)

    @property
    def steps(self) -> int:
        return self.grounding + self.answers

    def rate(self, step: int) -> float:
        """The learning rate. In each part it rises, stays level, and falls to nothing in the last third."""
        part = int(step >= self.grounding)
        done, total = (step, self.grounding) if part == 0 else (step - self.grounding, self.answers)
        return RATES[part] * min((done + 1) / WARM_UP, 1.0, (total - done) / (total * COOLING))


def main(  # noqa: PLR0913, PLR0917 - options of a command
    out: Annotated[Path, typer.Argument(help="folder to write the checkpoint to")],
    work: Annotated[Path, typer.Option(help="folder for the pictures and the state of the run")],
    seed: int = 1,
    pictures: int = PICTURES,
    grounding: Annotated[int, typer.Option(help="steps of the first part")] = 1000,
    answers: Annotated[int, typer.Option(help="steps of the second part")] = 2600,
    every: Annotated[int, typer.Option(help="steps between two checks on held-out posts")] = 100,
    workers: Annotated[int, typer.Option(help="processes on a CPU; each takes a part of the batch")] = 2,
) -> None:
    """Train, or continue the run that was started in `work`."""
    out.mkdir(parents=True, exist_ok=True)
    words.write(out, crops=lessons.BUDGET)
    plan = Plan(out, work, seed, pictures, grounding, answers, every, 1 if torch.cuda.is_available() else workers)
    plan.shelf(training=True)
    plan.shelf(training=False)
    (work / "meeting").unlink(missing_ok=True)
    spawn(run, (plan,), nprocs=plan.workers)  # type: ignore[no-untyped-call]


def run(rank: int, plan: Plan) -> None:
    """One of the processes. All hold the same weights and share gradients at each step."""
    if plan.workers > 1:
        torch.set_num_threads(1)
        distributed.init_process_group("gloo", f"file://{plan.work / 'meeting'}", rank=rank, world_size=plan.workers)
    student = Student(plan.out, plan.seed).to("cuda" if torch.cuda.is_available() else "cpu")
    shelf, held_out = plan.shelf(training=True), plan.shelf(training=False)
    optimizers = _optimizers(student)
    state = plan.work / f"state-{plan.seed}.pt"
    first, seconds = _resumed(state, student, optimizers)
    started = time.monotonic() - seconds
    if not first:
        student.initialise_tower(shelf)
    losses: list[float] = []
    torch.set_flush_denormal(True)
    for step in range(first, plan.steps):
        random = Random(f"{plan.seed} {step} {rank}")
        torch.manual_seed(random.randrange(2**31))
        if step == plan.grounding:
            student.raise_words()
            for optimizer in optimizers:
                optimizer.state.clear()
        for scale in (student.scale, student.kinship):  # they are so small now that a step would be too large
            scale.requires_grad_(step < plan.grounding)
        loss = _loss(student, shelf, random, plan, step)
        loss.backward()  # type: ignore[no-untyped-call]
        if plan.workers > 1:
            _share(student)
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = plan.rate(step) * group["share"]
                if group["tower"] and step >= plan.grounding:
                    group["lr"] *= SETTLED
            optimizer.step()
        student.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if rank == 0 and (step + 1) % 25 == 0:
            mean = sum(losses) / len(losses)
            _say(f"step {step + 1}/{plan.steps}  loss {mean:.4f}  {time.monotonic() - started:.0f} s")
            losses.clear()
        if rank == 0 and ((step + 1) % plan.every == 0 or step + 1 == plan.steps):
            _check(student, held_out, questions=step >= plan.grounding)
            seconds = time.monotonic() - started
            draft = state.with_suffix(".draft")
            kept = {"student": student.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
            torch.save({**kept, "step": step + 1, "seconds": seconds}, draft)
            draft.rename(state)
            student.save(plan.out)


def _resumed(state: Path, student: Student, optimizers: Sequence[torch.optim.Optimizer]) -> tuple[int, float]:
    """Restores the run's saved state. Returns its steps and seconds so far; (0, 0) for a new run."""
    if not state.exists():
        return 0, 0.0
    saved = torch.load(state, weights_only=True)
    student.load_state_dict(saved["student"])
    for optimizer, kept in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(kept)
    return int(saved["step"]), float(saved["seconds"])


def _optimizers(student: Student) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the layers' matrices, AdamW for embeddings, head, norms and biases."""

    def groups(*, layers: bool, share: float) -> list[dict[str, object]]:
        chosen = [
            (name, parameter)
            for name, parameter in student.named_parameters()
            if _in_a_layer(name, parameter) is layers
        ]
        return [
            {
                "params": [parameter for name, parameter in chosen if ("vision_embed_tokens" in name) is tower],
                "tower": tower,
                "share": share,
            }
            for tower in (True, False)
        ]

    return (
        torch.optim.Muon(groups(layers=True, share=1.0), weight_decay=0.03, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups(layers=False, share=2 / 3), betas=(0.9, 0.98), weight_decay=0.0),
    )


def _in_a_layer(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 and (".layers." in name or "img_projection" in name)


def _share(student: Student) -> None:
    """Gives each process the mean of all gradients. A parameter without a gradient has none in any process."""
    grads = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for grad, mean in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(mean.view_as(grad))


def _loss(student: Student, shelf: Shelf, random: Random, plan: Plan, step: int) -> Tensor:
    if step < plan.grounding:
        return _ground(student, shelf, random, plan)
    return _question_loss(student, shelf, random, plan, late=step >= plan.grounding + EARLY)


def _ground(student: Student, shelf: Shelf, random: Random, plan: Plan) -> Tensor:
    """The grounding loss of pictures with one local crop. Pictures with two cost three times as much and add little."""
    pictures = _plain(shelf, random, GROUND_BATCH // plan.workers)
    with _mixed(student):
        features, labels = student.embed_images(shelf, pictures, light=True)
        return student.grounding(features, labels)


def _plain(shelf: Shelf, random: Random, count: int) -> list[int]:
    return random.choices(np.flatnonzero(shelf.grid.prod(axis=1) == 1).tolist(), k=count)


def _question_loss(student: Student, shelf: Shelf, random: Random, plan: Plan, *, late: bool) -> Tensor:
    course = lessons.WIDE if late else lessons.TRAINING
    made = [lessons.lesson(random, shelf, course) for _ in range(BATCH // plan.workers)]
    with _mixed(student):
        pictures = [picture for lesson in made for picture in lesson.pictures]
        more = _plain(shelf, random, MORE_PICTURES[late] // plan.workers)
        features, labels = student.embed_images(shelf, pictures + more, light=True, patched=late)
        # Early answers are wrong, and would undo what the tower has learned.
        shown = [values if late else values.detach() for values in features[: len(pictures)]]
        trees = [student.read(shelf, lesson) for lesson in made]
        places, facts = student.facts(made, trees)
        logits, clues = student.answer(trees, shown, places)
        truth = torch.tensor([answer for lesson in made for answer in lesson.answers], device=logits.device)
        targets = torch.where(truth, student.yes, student.no)
        fact_loss = functional.binary_cross_entropy_with_logits(clues.float(), facts, pos_weight=facts.new_tensor(RARE))
        return functional.cross_entropy(logits, targets) + 2 * fact_loss + student.grounding(features, labels)


def _check(student: Student, shelf: Shelf, *, questions: bool) -> None:
    """Prints figures of a few held-out posts. The figures of the model card come from `evaluate`."""
    with torch.inference_mode(), _mixed(student):
        features, labels = student.embed_images(shelf, range(min(CHECKED_PICTURES, len(shelf))))
        right = student.recognised(features, labels)
        _say(f"  grounding: loss {student.grounding(features, labels):.3f}, {right:.1%} of tokens")
        for name, course in CHECKS.items() if questions else ():
            truth, margins, kinds = _held_out_margins(student, shelf, course)
            by_kind = {
                kind: ([truth[at] for at in places], [margins[at] for at in places])
                for kind in sorted(set(kinds))
                for places in [[at for at, each in enumerate(kinds) if each == kind]]
            }
            parts = [f"{kind} {auc(*part):.3f}" for kind, part in by_kind.items()]
            correct = sum((margin > 0) is so for margin, so in zip(margins, truth, strict=True)) / len(truth)
            _say(f"  {name}: AUC {auc(truth, margins):.4f}, right {correct:.1%}; {', '.join(parts)}")


def _held_out_margins(student: Student, shelf: Shelf, course: Course) -> tuple[list[bool], list[float], list[str]]:
    random, truth, kinds = Random("look"), [], []
    margins: list[float] = []
    for _ in range(CHECKED_POSTS // BATCH):
        made = [lessons.lesson(random, shelf, course) for _ in range(BATCH)]
        features, _ = student.embed_images(shelf, [picture for lesson in made for picture in lesson.pictures])
        logits, _ = student.answer([student.read(shelf, lesson) for lesson in made], features)
        margins += (logits[:, student.yes] - logits[:, student.no]).float().tolist()
        truth += [answer for lesson in made for answer in lesson.answers]
        kinds += [kind for lesson in made for kind in lesson.kinds]
    return truth, margins, kinds


@contextmanager
def _mixed(student: Student) -> Iterator[None]:
    """Computes in bfloat16 where that is safe, with plain attention, whose gradients are fast on a CPU."""
    with torch.autocast(student.network.device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def _say(text: str) -> None:
    typer.echo(f"{time.strftime('%H:%M:%S')} {text}")


if __name__ == "__main__":
    typer.run(main)
