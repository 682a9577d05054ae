"""How often certificates are false, and how many labels they take: `python -m tests.coverage [--runs N] [--json FILE]`.

What can be enumerated is exact. The rest is runs of moderation.evaluation.certifying.certification with a seed that is
printed. The unit tests hold the same limits on fewer cases.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from moderation.evaluation.certifying.certification import Claim, Design, log_wealth
from tests.support import false_certification as false

CONFIDENCE = 0.95
SHARES = (0.80, 0.90, 0.95, 0.98, 0.99)
GRIDS = {
    "all levels false": ([(150, 142), (300, 284), (450, 427), (600, 569)], 0),
    "strictest level true": ([(150, 149), (300, 284), (450, 420), (600, 569)], 1),
    "two levels true": ([(300, 297), (600, 590), (900, 853), (1_200, 1_139)], 2),
}

Row = dict[str, Any]


def exact_fixed() -> Iterator[Row]:
    """The binomial test at the border of the claim, for every n up to 400: the worst n, and some."""
    for share in SHARES:
        claim = Claim.at_least(share, CONFIDENCE)
        chances = {n: float(false.fixed(n, claim, claim.limit)) for n in range(1, 401)}
        worst = max(chances, key=lambda n: chances[n])
        yield {"precision": share, "n": "1 to 400", "worst n": worst, "false": chances[worst], "limit": claim.delta}


def exact_finite() -> Iterator[Row]:
    """The hypergeometric test in the best population that breaks the claim, for every n."""
    for share in SHARES[:3]:
        claim = Claim.at_least(share, CONFIDENCE)
        for population in (50, 200, 400):
            wrong = math.floor(claim.limit * population) + 1
            chances = {
                n: float(false.drawn(n, population, wrong, false.greatest(n, claim, population)))
                for n in range(1, population + 1)
            }
            worst = max(chances, key=lambda n: chances[n])
            yield {
                "precision": share,
                "population": population,
                "n": f"1 to {population}",
                "worst n": worst,
                "false": chances[worst],
                "limit": claim.delta,
            }


def normal_theory() -> Iterator[Row]:
    """What a normal-theory bound would do in place of the exact one: why it is never called a certificate."""
    claim = Claim.at_least(0.95, CONFIDENCE)
    for n in (59, 93, 153, 400):
        chance = Fraction(0)
        for k in range(n + 1):
            right = 1 - k / n
            if right - 1.6449 * math.sqrt(right * (1 - right) / n) >= 0.95:
                chance += math.comb(n, k) * claim.limit**k * (1 - claim.limit) ** (n - k)
        yield {"precision": 0.95, "n": n, "false": float(chance), "limit": claim.delta}


def betting(runs: int, seed: int) -> Iterator[Row]:
    """Looked at after each label, at the border of the claim."""
    most = false.most_of(runs, 0.05)
    for share in (0.90, 0.95):
        claim = Claim.at_least(share, CONFIDENCE)
        found = false.betting(seed, share, claim, 1_000, runs)
        yield {"design": "with replacement, 1,000 labels", "precision": share, "false": found, "at most": most}
        for population in (200, 1_000):
            right = claim.least_right(population) - 1
            found = false.betting_finite(seed, right, population, claim, runs)
            yield {"design": f"all {population:,} groups", "precision": share, "false": found, "at most": most}


def grids(runs: int, seed: int) -> Iterator[Row]:
    """One sample of 400 for four thresholds, from strict to loose."""
    claim = Claim.at_least(0.95, CONFIDENCE)
    for name, (levels, true) in GRIDS.items():
        for design in Design:
            counts = false.grid(seed, levels, claim, 400, design, runs)
            found = sum(counts[true + 1 :])
            yield {
                "grid": name,
                "design": design.value,
                "false": found,
                "at most": false.most_of(runs, 0.05),
                "certified levels": counts,
            }


def power(runs: int, seed: int) -> Iterator[Row]:
    """How many labels the betting form takes for precision 0.95, within 1,500."""
    claim, rng = Claim.at_least(0.95, CONFIDENCE), np.random.default_rng(seed)
    for rate in (0.95, 0.97, 0.98, 0.99, 1.0):
        first = [
            np.flatnonzero(log_wealth(rng.random(1_500) < rate, claim) >= -math.log(claim.delta))[:1]
            for _ in range(runs)
        ]
        taken = [int(place[0]) for place in first if len(place)]
        yield {
            "true precision": rate,
            "certified": f"{len(taken) / runs:.1%}",
            "median labels": int(np.median(taken)) if taken else None,
        }


def _print(title: str, rows: list[Row]) -> None:
    sys.stdout.write(f"\n{title}\n")
    widths = {key: max(len(key), *(len(_word(row[key])) for row in rows)) for key in rows[0]}
    sys.stdout.write("  ".join(f"{key:>{width}}" for key, width in widths.items()) + "\n")
    for row in rows:
        sys.stdout.write("  ".join(f"{_word(row[key]):>{width}}" for key, width in widths.items()) + "\n")
    sys.stdout.flush()


def _word(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def main() -> int:
    """Prints all tables. 1: a limit was passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=false.RUNS)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sys.stdout.write(f"{given.runs} runs, seed {given.seed}, confidence {CONFIDENCE}\n")
    tables = {
        "false certification, fixed n (exact)": exact_fixed(),
        "false certification, known population (exact)": exact_finite(),
        "false certification, betting (runs)": betting(given.runs, given.seed),
        "false certification, four thresholds (runs)": grids(given.runs, given.seed),
        "labels that the betting form takes for 0.95 (runs)": power(max(given.runs // 4, 1), given.seed),
        "false certification by a normal-theory bound (exact), which nothing here uses": normal_theory(),
    }
    found = {}
    for title, rows in tables.items():
        found[title] = list(rows)
        _print(title, found[title])
    if given.json:
        given.json.write_text(json.dumps({"runs": given.runs, "seed": given.seed, "tables": found}, indent=1) + "\n")
    rows_held = [row for title in list(found)[:4] for row in found[title]]
    return int(any(row["false"] > row.get("at most", row.get("limit", 0)) for row in rows_held))


if __name__ == "__main__":
    sys.exit(main())
