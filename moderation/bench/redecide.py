"""`moderation bench redecide`: how fast archived verdicts are decided again with other thresholds, and in what memory.

It fills an archive with verdicts on the policies at hand, whose scores are all different. A process of its own, on two
cores, then decides them again (evaluation/changes/redeciding.py), for a quarter of the verdicts and for all. Its time
is from its start to its end. The peak of its memory shows whether that grows with the archive.
"""

from __future__ import annotations

import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from moderation import wire
from moderation.bench import processes
from moderation.evaluation.changes.redeciding import COLUMNS, redecide
from moderation.evaluation.traffic import archive as archives
from moderation.evaluation.traffic.archive import Archive, State
from moderation.evaluation.traffic.rows import SCHEMA, Place, Rows
from moderation.policies import Policy, PolicySet, States, decide, finding_of
from moderation.types import (
    Answer,
    Detail,
    ModelInfo,
    Origin,
    Problem,
    Reason,
    Score,
    Source,
    Verdict,
    YesNo,
)

MODEL = ModelInfo("bench", "", "b" * 64)
START_MS = 1_780_000_000_000
DAY_VERDICTS = 150_000
MADE = 20_000  # verdicts that are made one by one; the others are these with other ids and other scores
CORES = {0, 1}


def run(policies: Path, verdicts: int, console: Console, output: Path | None = None) -> dict[str, Any]:
    """Measures and returns all results, with the machine's data."""
    rows: list[dict[str, Any]] = []
    for count in (verdicts // 4, verdicts):
        with tempfile.TemporaryDirectory(prefix="moderation-bench-") as name:
            size = fill(Path(name), PolicySet.load(policies), count)
            rows.append({"archive_bytes": size} | _measured(Path(name), policies))
            console.print(f"{rows[-1]['verdicts']:,} verdicts: {rows[-1]['seconds']:.1f} s", highlight=False)
    machine = {"cores": os.cpu_count(), "used": len(CORES), "python": platform.python_version()}
    libraries = {name: version(name) for name in ("numpy", "pyarrow")}
    results = {"policies": len(PolicySet.load(policies).policies), "runs": rows, "machine": machine | libraries}
    if output:
        output.write_text(json.dumps(results, indent=1) + "\n")
    return results


def print_table(results: dict[str, Any], console: Console) -> None:
    """Prints the results."""
    table = Table("verdicts", "seconds", "verdicts/s", "peak memory", "archive", "flips", box=None)
    for row in results["runs"]:
        table.add_row(
            f"{row['verdicts']:,}",
            f"{row['seconds']:.1f}",
            f"{row['verdicts'] / row['seconds']:,.0f}",
            f"{row['peak_mb']:.0f} MB",
            f"{row['archive_bytes'] / 1e6:.0f} MB",
            f"{row['flips']:,}",
        )
    console.print(table)


def fill(folder: Path, policies: PolicySet, count: int) -> int:
    """Fills an archive with so many verdicts of these policies. Returns its bytes."""
    with Archive.opened(folder) as archive:
        made = _made(policies, min(count, MADE))
        for first in range(0, count, MADE):
            batch = _others(made.slice(0, min(MADE, count - first)), first)
            archive.add([batch], State(topic="verdicts", offsets={0: first + batch.num_rows}))
        archive.join(archives.day_of("day=2999-01-01/"))
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def _made(policies: PolicySet, count: int) -> pa.RecordBatch:
    rows, generator = Rows(), random.Random(1)  # noqa: S311  no secrets
    state = States(policies.policies, policies.certificates, MODEL.digest).at(START_MS / 1000)
    for number in range(count):
        problems = (Problem(Reason.IMAGE_CORRUPT, "images[0].data", Detail.BASE64),) if number % 50 == 0 else ()
        findings = tuple(
            finding_of(policy, _answers(generator), problems=problems, footing=state.footings[policy.id])
            for policy in policies.policies
            if policy.asked
        )
        decision = decide(findings)
        verdict = Verdict(
            post_id=f"post-{number}",
            tenant=f"tenant-{number % 20}",
            content_digest=f"{generator.getrandbits(256):064x}",
            policy_set_digest=policies.digest,
            model=MODEL,
            outcome=decision.outcome,
            status=decision.status,
            origin=Origin.MODEL,
            deciding_policy=decision.deciding_policy,
            severity=decision.severity,
            findings=findings,
            decided_at_ms=START_MS,
            problems=problems,
            source=Source("posts", number % 6, number, START_MS),
            decision_state=state.text,
        )
        rows.add(wire.verdict_message(verdict), Place(START_MS, "bench", 0, number))
    return rows.taken()


def _answers(generator: random.Random) -> Sequence[Answer]:
    answers: list[Answer] = []
    for _ in range(generator.choice((1, 1, 1, 2))):
        margin = generator.gauss(-3, 3)
        score = Score(1 / (1 + math.exp(-margin)), margin, 0.9 + 0.1 * generator.random())
        draw = generator.random()
        answers.append(Reason.MODEL_FAILED if draw < 0.01 else YesNo(draw < 0.015) if draw < 0.02 else score)
    return answers


def _others(batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    """The same verdicts with ids, times and scores of their own."""
    generator = np.random.default_rng(first)
    numbers = np.arange(first, first + batch.num_rows)
    times = pa.array(START_MS + numbers * 86_400_000 // DAY_VERDICTS, SCHEMA.field("written_at").type)
    own = {
        "post_id": pa.array([f"post-{number}" for number in numbers]),
        "content_digest": pa.array([generator.bytes(32).hex() for _ in numbers]),
        "source_offset": pa.array(numbers),
        "offset": pa.array(numbers),
        "written_at": times,
        "decided_at": times,
    }
    lists = batch.column("findings")
    flat = lists.flatten()
    margins = generator.normal(-3, 3, len(flat))
    scored = flat.field("probability").is_valid().to_numpy(zero_copy_only=False)
    fields = {name: flat.field(name) for name in flat.type.names}
    fields["margin"] = pa.array(margins, mask=~scored)
    fields["probability"] = pa.array(1 / (1 + np.exp(-margins)), mask=~scored)
    offsets = pa.array(np.r_[0, np.cumsum(lists.value_lengths().to_numpy())], pa.int32())
    own["findings"] = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields.values(), list(fields)))
    columns = [own.get(name, batch.column(name)) for name in SCHEMA.names]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _measured(folder: Path, policies: Path) -> dict[str, Any]:
    started = time.perf_counter()
    child = subprocess.run(
        [sys.executable, "-m", __name__, str(folder), str(policies)],
        env=processes.environment({}),
        check=True,
        stdout=subprocess.PIPE,
    )
    found: dict[str, Any] = json.loads(child.stdout)
    return {"seconds": time.perf_counter() - started} | found


def looser(policies: PolicySet) -> PolicySet:
    """The set with each threshold `remove` half-way to `review`."""

    def changed(policy: Policy) -> Policy:
        limits = policy.thresholds
        remove = (limits.review + limits.remove) / 2
        return policy.model_copy(update={"thresholds": limits.model_copy(update={"remove": remove})})

    return PolicySet.of([changed(policy) for policy in policies.policies])


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    return archives.batches(folder, COLUMNS)


def main() -> None:
    """Decides the verdicts of an archive again, on CORES at most, and prints what that took."""
    folder, policies = map(Path, sys.argv[1:])
    os.sched_setaffinity(0, CORES & os.sched_getaffinity(0) or os.sched_getaffinity(0))
    pa.set_cpu_count(len(CORES))
    old = PolicySet.load(policies)
    found = redecide(old, looser(old), _batches(folder))
    said = {"verdicts": found.verdicts, "decided": found.whole.total, "flips": found.whole.flips}
    print(json.dumps(said | {"peak_mb": _peak_mb()}))


def _peak_mb() -> float:
    """The most resident memory of this program so far. What getrusage says begins with that of the parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


if __name__ == "__main__":
    main()
