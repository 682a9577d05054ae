"""How fast the engine is, and against what: `moderation bench engine`.

tree      the service's engine, with as many posts in a step as a budget of tokens holds
tree1     the same with one post in a step
bfloat16  tree in bfloat16; the other ways run in float32
original, lean, padded, prefix: see baselines.py

The ways take turns, round by round, so ratios hold on a machine whose speed varies. Encoding is not part of any way and
is timed on its own. All ways' logits are compared, and a wrong one makes the command fail.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from moderation.bench import baselines, flops, noise, report, sizes, timing, workloads
from moderation.bench.baselines import Stock
from moderation.bench.cells import Cell, Run
from moderation.bench.sizes import SIZES
from moderation.bench.workloads import KINDS, MIX
from moderation.errors import ConfigError
from moderation.models.phi3.family import Window
from moderation.models.phi3.network import Phi3Network
from moderation.models.phi3.preprocessing import Crops
from moderation.models.shared import device
from moderation.models.shared.engine import Engine
from moderation.models.shared.linear import Linear
from moderation.settings import ModelSettings

YES, NO = 3869, 1939  # the published tokenizer's; any two would do
MATMUL = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command."""

    size: str = "small"
    kinds: tuple[str, ...] = ("text", "image4")
    policies: tuple[int, ...] = (1, 5, 20)
    rounds: int = 3
    threads: int = 0  # 0: torch's own choice
    where: str = "auto"
    ways: tuple[str, ...] = ("tree", "tree1", "bfloat16", *baselines.WAYS)
    tokens: int = 8192
    json: Path | None = None
    plot: Path | None = None


def main(options: Options) -> int:
    """Measures, prints and writes. Returns 1 when two ways disagree."""
    _check(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    where, dtype = device.place(ModelSettings(device=options.where))
    config = sizes.config(SIZES[options.size])
    network = sizes.network(config, dtype=dtype, device=where)
    bench = Bench(options, network)
    run = Run(
        command=timing.command(),
        machine=timing.machine(where, "transformers"),
        size={"name": options.size, "dtype": _name(dtype)} | asdict(SIZES[options.size]),
        matmul_gflops={_name(kind): matmul(kind, where) / 1e9 for kind in bench.dtypes},
        encode_ms={kind: _encode_ms(kind, network) for kind in options.kinds if kind != "mix" and KINDS[kind].size},
        peak_mb=bench.peak_mb(),
    )
    report.head(run)
    for kind in options.kinds:
        for policies in options.policies:
            cell = bench.mix(policies, run.cells) if kind == "mix" else bench.cell(kind, policies)
            run.cells.append(cell)
            report.row(run, cell)
    report.foot(run)
    if options.json:
        report.write_json(run, options.json)
    if options.plot:
        report.write_plot(run, options.plot)
    return 0 if bench.agreed else 1


class Bench:
    """All ways on one network."""

    def __init__(self, options: Options, network: Phi3Network) -> None:
        self._options = options
        self._network = network
        self.config = network.config
        self._dtype = network.lm_head.weight.dtype
        self._engine = Engine(network, (YES,), (NO,), feature_bytes=0)  # every picture is new
        self.dtypes = [self._dtype]
        self._halved: Engine[Crops] | None = None
        if "bfloat16" in options.ways and self._dtype != torch.bfloat16:
            halved = sizes.network(self.config, dtype=torch.float32, device=network.device).to(torch.bfloat16)
            self._halved = Engine(halved, (YES,), (NO,), feature_bytes=0)
            self.dtypes.append(torch.bfloat16)
        self._stock: dict[int, Stock] = {}
        self.agreed = True

    def peak_mb(self) -> float:
        """The peak memory after the largest step of the options, in MB."""
        kinds = [kind for kind in self._options.kinds if kind != "mix"] or ["text"]
        self._engine.score(self._posts(kinds[-1], max(self._options.policies)))
        return timing.peak_mb(self._network.device)

    def cell(self, kind: str, policies: int) -> Cell:
        """Measures all ways on posts of one kind."""
        posts = self._posts(kind, policies)
        first = posts[0]
        ways: dict[str, tuple[Callable[[Sequence[Window]], object], Sequence[Window], float]] = {
            "tree": (self._engine.score, posts, len(posts)),
            "tree1": (self._engine.score, posts[:1], 1),
        }
        if self._halved is not None:
            ways["bfloat16"] = (self._halved.score, posts, len(posts))
        stock = self._stock_for(KINDS[kind].crops)
        sampled = min(policies, baselines.MAX_PROMPTS)
        others: dict[str, tuple[Callable[[Window], Tensor], float]] = {
            "original": (lambda post: stock.original(post, sampled), sampled / policies),
            "lean": (lambda post: stock.original(post, sampled, lean=True), sampled / policies),
            "padded": (stock.padded, 1),
            "prefix": (stock.prefix, 1),
        }
        wanted = set(self._options.ways)
        for name, (way, share) in others.items():
            if name in wanted:
                ways[name] = (lambda some, way=way: way(some[0]), [first], share)  # type: ignore[misc]
        expected = _margins([score.margin for score in self._engine.score([first])[0]])
        apart = {name: self._apart(name, run(some), expected) for name, (run, some, _) in ways.items()}  # warms up, too
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(self._options.rounds):
            for name, (run, some, posts_done) in ways.items():
                seconds[name].append(timing.seconds(partial(run, some)) / posts_done)
        return Cell(
            kind=kind,
            policies=policies,
            tokens=first.tree.tokens,
            padding=self._padding([posts]),
            posts=len(posts),
            gflop=flops.step([first], self.config) / 1e9,
            plain_gflop=flops.plain(first, self.config) / 1e9,
            seconds=seconds,
            apart=apart,
        )

    def mix(self, policies: int, cells: Sequence[Cell]) -> Cell:
        """Twenty posts in steps as the batcher cuts them. The other ways' times are weighted sums over the kinds."""
        posts = [
            workloads.post(KINDS[kind], policies, self.config, seed)
            for seed, kind in enumerate(kind for kind, count in MIX.items() for _ in range(count))
        ]
        order = torch.randperm(len(posts), generator=torch.Generator().manual_seed(0)).tolist()
        cut = workloads.steps([posts[place] for place in order], self._options.tokens)
        engines = {"tree": self._engine} | ({"bfloat16": self._halved} if self._halved else {})
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(self._options.rounds):
            for name, engine in engines.items():
                started = time.perf_counter()
                for step in cut:
                    engine.score(step)
                seconds[name].append((time.perf_counter() - started) / len(posts))
        parts = {cell.kind: cell for cell in cells if cell.policies == policies}
        if parts.keys() >= MIX.keys():
            for way in (way for way in baselines.WAYS if way in self._options.ways):
                shares = [[count / 20 * second for second in parts[kind].seconds[way]] for kind, count in MIX.items()]
                seconds[way] = [sum(round_) for round_ in zip(*shares, strict=True)]
        return Cell(
            kind="mix",
            policies=policies,
            tokens=sum(window.tree.tokens for window in posts) // len(posts),
            padding=self._padding(cut),
            posts=round(len(posts) / len(cut)),
            gflop=flops.step(posts, self.config) / len(posts) / 1e9,
            plain_gflop=sum(flops.plain(window, self.config) for window in posts) / len(posts) / 1e9,
            seconds=seconds,
            apart={},
        )

    def _posts(self, kind: str, policies: int) -> list[Window]:
        first = workloads.post(KINDS[kind], policies, self.config, 0)
        count = max(1, min(timing.MAX_POSTS[self._network.device.type], self._options.tokens // first.tokens))
        return [first, *(workloads.post(KINDS[kind], policies, self.config, seed) for seed in range(1, count))]

    def _padding(self, steps: Sequence[Sequence[Window]]) -> float:
        """Runs the steps. Tokens beyond those of the posts are padding, or a shared part that ran twice."""
        computed: list[int] = []
        hook = self._network.register_forward_hook(lambda _network, given, _out: computed.append(len(given[0].ids)))
        for step in steps:
            self._engine.score(step)
        hook.remove()
        return sum(computed) / sum(window.tree.tokens for step in steps for window in step)

    def _stock_for(self, budget: int) -> Stock:
        if budget not in self._stock:
            self._stock.clear()
            gc.collect()
            self._stock[budget] = Stock(self._network, budget)
        return self._stock[budget]

    def _apart(self, name: str, result: object, expected: Tensor) -> float:
        if isinstance(result, Tensor):
            margins = (result[:, YES] - result[:, NO]).double().cpu()
        else:
            margins = _margins([score.margin for score in result[0]])  # type: ignore[index]
        apart = float((margins - expected[: len(margins)]).abs().max())
        close = timing.CLOSE[torch.bfloat16 if name == "bfloat16" else self._dtype]
        self.agreed = self.agreed and apart < close
        return apart


def matmul(dtype: torch.dtype, where: torch.device) -> float:
    """FLOP/s of a square product, the best of several: the most that the machine can do."""
    side = MATMUL[where.type]
    layer = Linear(side, side, bias=False, device=where, dtype=dtype)
    left = torch.randn(side, side, device=where, dtype=dtype)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(8):
            started = time.perf_counter()
            layer(left)
            if where.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _encode_ms(kind: str, network: Phi3Network) -> float:
    """The time to encode one picture on one thread, in milliseconds."""
    shape = KINDS[kind]
    assert shape.size is not None  # noqa: S101 - asked for by the caller
    image = noise.picture(shape.size, 0)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        workloads.crops(image, shape.crops, network.config)
        taken.append(time.perf_counter() - started)
    return 1000 * statistics.median(taken)


def _margins(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check(options: Options) -> None:
    known = {"size": SIZES, "kinds": [*KINDS, "mix"], "ways": Options().ways, "where": ["auto", "cpu", "cuda"]}
    asked = {"size": [options.size], "kinds": options.kinds, "ways": options.ways, "where": [options.where]}
    for name, values in asked.items():
        if odd := [value for value in values if value not in known[name]]:
            raise ConfigError(f"bench engine: there is no {name} {', '.join(odd)}; there is {', '.join(known[name])}")
