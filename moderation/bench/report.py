"""A run of `bench engine` as a table, as JSON and as a plot."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from html import escape
from pathlib import Path

from rich.console import Console

from moderation.bench.cells import Cell, Run

ENGINE = ("tree", "tree1", "bfloat16")
OTHERS = ("original", "lean", "padded", "prefix")
# (kind, policies) -> times faster than `original`: required, aimed at
TARGETS = {("text", 5): (2.5, 4), ("image4", 5): (6, 9), ("image4", 20): (14, 20)}
COLOURS = {"tree": "#0b6e4f", "tree1": "#6bbf9b", "bfloat16": "#08415c", "original": "#c8553d", "lean": "#e08e79"}
GREY = "#999999"

console = Console(soft_wrap=True, highlight=False, emoji=False)


def head(run: Run) -> None:
    """Prints the machine and the columns."""
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in run.matmul_gflops.items())
    console.print(f"{run.command}\n{', '.join(f'{key} {value}' for key, value in run.machine.items())}")
    console.print(f"{run.size}; matmul GFLOP/s: {rates}; peak memory {run.peak_mb:,.0f} MB; load {_load()}")
    for kind, spent in run.encode_ms.items():
        console.print(f"encoding a picture of {kind}: {spent:.1f} ms on one thread")
    ways = "".join(f"{way:>10}" for way in (*ENGINE, *OTHERS))
    numbers = f"{'posts/s':<9}{'P':>3}{'tokens':>7}{'pad':>6}{'GFLOP':>8}{'of matmul':>10}"
    console.print(f"\n{numbers}{ways}   {'tree over each other':<22}{'apart':>7}")


def row(run: Run, cell: Cell) -> None:
    """Prints one kind of post at one number of policies."""
    rates = "".join(f"{cell.rate(way) if way in cell.seconds else 0:>10.3f}" for way in (*ENGINE, *OTHERS))
    against = " / ".join(f"{cell.ratio('tree', way)[0]:.1f}" for way in OTHERS if way in cell.seconds)
    apart = max((value for way, value in cell.apart.items() if way != "bfloat16"), default=0.0)
    numbers = f"{cell.kind:<9}{cell.policies:>3}{cell.tokens:>7}{cell.padding:>6.2f}{cell.gflop:>8.0f}"
    console.print(f"{numbers}{_share(run, cell, 'tree'):>10.0%}{rates}   {against:<22}{apart:>7.0e}")


def foot(run: Run) -> None:
    """Prints which targets were met."""
    console.print()
    for cell in run.cells:
        if (cell.kind, cell.policies) not in TARGETS or "original" not in cell.seconds:
            continue
        must, aim = TARGETS[cell.kind, cell.policies]
        for way in ("tree", "bfloat16"):
            if way in cell.seconds:
                ratio, low, high = cell.ratio(way, "original")
                met = "aim met" if ratio >= aim else "must met" if ratio >= must else "MISSED"
                console.print(
                    f"{cell.kind} P={cell.policies}: {way} is {ratio:.2f} ({low:.2f} to {high:.2f}) times original; "
                    f"must {must:g}, aim {aim:g}: {met}"
                )


def write_json(run: Run, path: Path) -> None:
    """Writes all times, round by round, and the figures computed from them."""
    content = asdict(run)
    for cell, out in zip(run.cells, content["cells"], strict=True):
        ways = list(cell.seconds)
        out["posts_per_s"] = {way: round(cell.rate(way), 5) for way in ways}
        out["of_matmul_rate"] = {way: round(_share(run, cell, way), 3) for way in ways if way not in OTHERS}
        out["times_faster"] = {
            way: {to: [round(ratio, 3) for ratio in cell.ratio(way, to)] for to in OTHERS if to in ways}
            for way in ("tree", "tree1", "bfloat16")
            if way in ways
        }
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_plot(run: Run, path: Path) -> None:
    """Writes posts a second of each way as bars of an SVG, relative to the slowest way, on a logarithmic scale."""
    bars: list[str] = []
    place = 10
    for cell in run.cells:
        bars.append(_text(10, place + 14, f"{cell.kind}, {cell.policies} policies: posts a second", bold=True))
        place += 22
        slowest = min(cell.rate(way) for way in cell.seconds)
        for way in cell.seconds:
            rate = cell.rate(way)
            length = 40 + 90 * math.log2(rate / slowest)
            colour = COLOURS.get(way, GREY)
            bars.append(_text(10, place + 11, way))
            bars.append(f'<rect x="90" y="{place}" width="{length:.0f}" height="13" fill="{colour}"/>')
            bars.append(_text(96 + length, place + 11, f"{rate:.3g}  ({rate / slowest:.1f}x)"))
            place += 17
        place += 12
    title = _text(10, place + 10, f"{run.size['name']}, {run.machine['device']}, torch {run.machine['torch']}")
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="800" height="{place + 24}" font-family="sans-serif" '
        f'font-size="12">\n' + "\n".join([*bars, title]) + "\n</svg>\n"
    )


def _share(run: Run, cell: Cell, way: str) -> float:
    """The achieved rate divided by the matrix product's of the same run, in the dtype of the way."""
    dtype = "bfloat16" if way == "bfloat16" else str(run.size["dtype"])
    return cell.gflop * cell.rate(way) / run.matmul_gflops[dtype]


def _text(x: float, y: float, words: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{weight}>{escape(words)}</text>'


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}"
