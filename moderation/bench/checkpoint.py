"""How fast a checkpoint scores a tree, and against what: `moderation bench engine --model`.

step      a step of the service: as many posts as a budget of tokens holds, all policies of a post in one pass
tree      the same with one post in a step
prompts   each policy's prompt alone, one after the other, with its pictures computed again, as the original code does
batched   the same prompts in one batch; the pictures are computed once

All ways run on the same network, so the ratios show what a tree saves, and nothing else. They take turns, round by
round. The margins of all ways are compared with those of plain causal prompts that the network computes without the
engine, and a wrong way makes the command fail. Encoding is part of no way.

A class of transformers takes one question at a time: there, `batched` is `prompts`, and a step's memory is not
computed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from moderation import models
from moderation.bench import memory, noise, timing
from moderation.bench.cells import Times
from moderation.bench.memory import Memory
from moderation.errors import ConfigError
from moderation.models.general.classifier import GeneralClassifier
from moderation.models.general.loading import alone
from moderation.models.general.pictures import GeneralWindow
from moderation.models.shared import tree
from moderation.models.shared.classifier import VisionClassifier
from moderation.models.shared.scores import scores
from moderation.models.shared.tree import Tree
from moderation.models.shared.window import Window
from moderation.policies import prompts
from moderation.settings import ModelSettings
from moderation.types import Content, Question, Score

KINDS = {"text": None, "picture": (640, 480)}  # posts -> the size of their picture in pixels
OWN, OTHERS = ("step", "tree"), ("prompts", "batched")
WAYS = (*OWN, *OTHERS)
POST_SEEDS = 1_000_000  # from here on; below are the policies'
TEXT_TOKENS, QUESTION_TOKENS = 80, memory.QUESTION_TOKENS  # of a user's words, of a policy
WORDS = tuple(
    "a an the any this that post picture user account shop ticket weapon drug insult threat address phone price link "  # noqa: SIM905
    "offers sells shows asks describes praises mocks hides copies shares for with without from to about against and or "
    "not if even when such cheap old new fake violent private public".split()
)

Model = VisionClassifier[Any, Any]

console = Console(soft_wrap=True, highlight=False, emoji=False)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command. model: the checkpoint, its device, dtype and crops."""

    model: ModelSettings
    kinds: tuple[str, ...] = tuple(KINDS)
    policies: tuple[int, ...] = (1, 5, 20)
    rounds: int = 3
    threads: int = 0  # 0: torch's own choice
    json: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell(Times):
    """apart: from plain causal prompts."""

    posts: int  # of `step`
    prompt_tokens: int  # of all separate prompts
    picture_tokens: int  # of the picture
    margins: list[float]  # of the tree, for each window and policy


@dataclass(slots=True)
class Run:
    """All results of a run. A step's memory is that of `memory.of_step` with the picture of KINDS.

    peak_mb: of the process (on CUDA: of the device) once the largest step has run, before the other ways.
    """

    command: str
    machine: dict[str, str]
    model: dict[str, object]
    step_tokens: int
    memory: Memory | None  # None: of a class of transformers
    peak_mb: float
    cells: list[Cell] = field(default_factory=list)


def main(options: Options) -> int:
    """Measures, prints and writes. Returns 1 when two ways disagree. Raises ConfigError."""
    _check(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    model = load(options.model)
    run = Run(
        command=timing.command(),
        machine=timing.machine(model.network.device),
        model=_described(model),
        step_tokens=memory.STEP_TOKENS,
        memory=_memory(model),
        peak_mb=_peak_mb(model, options),
    )
    _print_head(run)
    agreed = True
    for kind in options.kinds:
        for policies in options.policies:
            cell = measure(model, kind, policies, options.rounds)
            run.cells.append(cell)
            _print_row(cell)
            agreed = agreed and max(cell.apart.values()) <= timing.CLOSE[model.network.dtype]
    if options.json:
        content = asdict(run)
        for cell, written in zip(run.cells, content["cells"], strict=True):
            written["times_faster"] = {
                way: {to: [round(ratio, 3) for ratio in cell.ratio(way, to)] for to in OTHERS} for way in OWN
            }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if not agreed:
        console.print("the ways disagree")
    return 0 if agreed else 1


def load(settings: ModelSettings) -> Model:
    """The checkpoint, without a cache of features: every picture is new. Raises ConfigError."""
    model = models.load(settings.model_copy(update={"feature_cache_bytes": 0}))
    if not isinstance(model, VisionClassifier):
        raise ConfigError(f"--model {settings.name}: it has no network to measure; name a checkpoint")
    return model


def measure(model: Model, kind: str, policies: int, rounds: int) -> Cell:
    """All ways on one post of a kind with so many policies; `step` on more such posts."""
    posts = _step(model, kind, policies)
    windows, step = posts[0], [window for post in posts for window in post]
    apart = [
        model.checkpoint.window(Tree(window.tree.shared, (branch,)), window.pictures, window.picture_work)
        for window in windows
        for branch in window.tree.branches
    ]
    ways: dict[str, Callable[[], list[Score]]] = {
        "step": lambda: _flat(model.score(step)[: len(windows)]),
        "tree": lambda: _flat(model.score(windows)),
        "prompts": lambda: [score for window in apart for score in _flat(model.score([window]))],
        "batched": lambda: _flat(model.score(apart)),
    }
    expected = [_plain(model, window) for window in apart]
    margins = {way: [score.margin for score in run()] for way, run in ways.items()}  # warms up, too
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            seconds[way].append(timing.seconds(run) / (len(posts) if way == "step" else 1))
    return Cell(
        kind=kind,
        policies=policies,
        posts=len(posts),
        tokens=sum(window.tree.tokens for window in windows),
        prompt_tokens=sum(window.tree.tokens for window in apart),
        picture_tokens=sum(picture.tokens for picture in windows[0].pictures),
        seconds=seconds,
        apart={way: _apart(found, expected) for way, found in margins.items()},
        margins=margins["tree"],
    )


def _step(model: Model, kind: str, policies: int) -> list[list[Window]]:
    """The windows of as many posts as a step holds, post by post. The policies are the same for all."""
    questions = [_question(model, number) for number in range(policies)]
    posts = [list(model.encode(_post(model, kind, 0), questions))]
    fits = memory.STEP_TOKENS // sum(window.tokens for window in posts[0])
    most = min(timing.MAX_POSTS[model.network.device.type], fits)
    return posts + [list(model.encode(_post(model, kind, number), questions)) for number in range(1, most)]


def _peak_mb(model: Model, options: Options) -> float:
    kinds = [kind for kind in options.kinds if KINDS[kind]] or options.kinds
    posts = _step(model, kinds[-1], max(options.policies))
    model.score([window for post in posts for window in post])
    return timing.peak_mb(model.network.device)


def _plain(model: Model, window: Window) -> float:
    """The margin of a window's only question: the whole prompt as one causal sequence, read at its last position."""
    if isinstance(model, GeneralClassifier) and isinstance(window, GeneralWindow):
        return alone(model, window, 0).margin
    (branch,) = window.tree.branches
    prompt = Tree(window.tree.shared + branch, ())
    with torch.inference_mode():
        features = model.network.embed_images(window.pictures) if window.pictures else []
        packed = tree.pack([prompt], model.network.device)
        hidden = model.network(packed, features, [model.network.variant(prompt.tokens)])
        yes, no = model.checkpoint.template.answers
        return scores(model.network.logits(hidden[-1:], exact=(*yes, *no)), yes, no)[0].margin


def _flat(rows: Sequence[Sequence[Score]]) -> list[Score]:
    return [score for row in rows for score in row]


def _apart(margins: Sequence[float], expected: Sequence[float]) -> float:
    return max(abs(own - other) for own, other in zip(margins, expected, strict=True))


def _post(model: Model, kind: str, number: int) -> Content:
    size = KINDS[kind]
    pictures = () if size is None else (noise.picture(size, seed=number),)
    return Content(_words("", TEXT_TOKENS, POST_SEEDS + number, model.checkpoint.template.user_text), pictures, "")


def _question(model: Model, number: int) -> Question:
    def ids(text: str) -> Sequence[int]:
        return model.checkpoint.template.question(prompts.asked(text))

    most = min(QUESTION_TOKENS, model.longest_question)
    return Question(f"policy-{number}", _words(f"Policy {number}:", most, 1 + number, ids))


def _words(first: str, most: int, seed: int, ids: Callable[[str], Sequence[int]]) -> str:
    """Drawn words behind the first ones, as many as take `most` tokens at most."""
    drawn = random.Random(seed)  # noqa: S311 - no secret
    text = longer = first
    while len(ids(longer)) <= most:
        text, longer = longer, f"{longer} {drawn.choice(WORDS)}".strip()
    return text


def _memory(model: Model) -> Memory | None:
    if isinstance(model, GeneralClassifier):
        return None
    yes, no = model.checkpoint.template.answers
    size = KINDS["picture"]
    pictures = model.checkpoint.encode_pictures([noise.picture(size, seed=0)] if size else [])
    return memory.of_step(memory.shapes(model.network), pictures, answers=(*yes, *no))


def _described(model: Model) -> dict[str, object]:
    network = model.network.model if isinstance(model, GeneralClassifier) else model.network
    return {
        "name": model.info.name,
        "revision": model.info.revision,
        "digest": model.info.digest,
        "family": type(model.checkpoint).__module__.split(".")[-2],
        "dtype": str(model.network.dtype).removeprefix("torch."),
        "parameters": sum(weight.numel() for weight in network.state_dict().values()),
        "context": model.checkpoint.context,
    }


def _print_head(run: Run) -> None:
    console.print(f"{run.command}\n{', '.join(f'{key} {value}' for key, value in run.machine.items())}")
    console.print(", ".join(f"{key} {value}" for key, value in run.model.items() if value))
    computed = ""
    if run.memory is not None:
        computed = (
            f"memory, computed: {run.memory.weights / 1e6:,.0f} MB of weights, and {run.memory.step / 1e6:,.0f} MB "
            f"for a step of {run.step_tokens:,} tokens on a GPU; "
        )
    console.print(f"{computed}peak {run.peak_mb:,.0f} MB")
    ways = "".join(f"{way:>10}" for way in WAYS)
    over = "".join(f"   {way + ' over ' + ' / '.join(OTHERS):<26}" for way in OWN)
    console.print(f"\n{'posts/s':<9}{'P':>3}{'tokens':>8}{'in prompts':>12}{ways}{over}{'apart':>7}")


def _print_row(cell: Cell) -> None:
    rates = "".join(f"{cell.rate(way):>10.3f}" for way in WAYS)
    ratios = [" / ".join(f"{cell.ratio(way, to)[0]:.2f}" for to in OTHERS) for way in OWN]
    over = "".join(f"   {ratio:<26}" for ratio in ratios)
    numbers = f"{cell.kind:<9}{cell.policies:>3}{cell.tokens:>8}{cell.prompt_tokens:>12}"
    console.print(f"{numbers}{rates}{over}{max(cell.apart.values()):>7.0e}")


def _check(options: Options) -> None:
    known = {"kinds": KINDS, "device": ("auto", "cpu", "cuda")}
    asked = {"kinds": options.kinds, "device": [options.model.device]}
    for name, values in asked.items():
        if odd := [value for value in values if value not in known[name]]:
            raise ConfigError(
                f"bench engine --model: --{name} {','.join(odd)} is not known; there is {', '.join(known[name])}"
            )
    if min(options.policies, default=0) < 1:
        raise ConfigError("bench engine --model: --policies are numbers from 1 on, such as 1,5,20")
    if options.json and not options.json.absolute().parent.is_dir():
        raise ConfigError(f"{options.json.parent}: no such folder")
