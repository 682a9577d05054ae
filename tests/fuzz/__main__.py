"""Fuzzes what reads bytes of strangers, one process after the other, and prints what was found.

    python -m tests.fuzz                                an hour in all
    python -m tests.fuzz --minutes 5 --targets wire     shorter, one target
    python -m tests.fuzz --json fuzz.json               and writes the figures

Inputs that reached new code stay in .fuzz/ and are where the next run begins. Exits non-zero if an input broke a
promise of tests/fuzz/promises.py, took too long, or took too much memory. Such an input lies in .fuzz/findings/: make a
test of it, as in tests/unit/<room>/test_any_bytes.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.fuzz.seeds import SEEDS, WORDS
from tests.support.repository import REPO

KEPT = REPO / ".fuzz"
UNIT_S = 20  # longest time for one input; the machine may be busy
MEMORY_MIB = 2_048
MAX_BYTES = 16 << 10  # of an input
MOST_FINDINGS = 5  # of a target; then the next target is tried


@dataclass
class Fuzzed:
    """What a target's processes did."""

    target: str
    seconds: float = 0.0
    inputs: int = 0
    kept: int = 0  # inputs that reached code which no other reaches
    edges: int = 0  # of the program, that were reached
    peak_mib: int = 0
    findings: list[str] = field(default_factory=list)


def fuzz(target: str, seconds: float) -> Fuzzed:
    """Runs a target for so long."""
    corpus, dictionary = KEPT / "corpus" / target, KEPT / f"{target}.dict"
    (KEPT / "findings").mkdir(parents=True, exist_ok=True)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[target]()):
        (corpus / f"seed-{number:02}").write_bytes(seed)
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in WORDS[target]))
    fuzzed, begun = Fuzzed(target), time.monotonic()
    while (left := seconds - (time.monotonic() - begun)) > 1 and len(fuzzed.findings) < MOST_FINDINGS:
        command = _command(target, corpus, dictionary, int(left))
        process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        log = process.stdout.decode(errors="replace")
        _count(fuzzed, log)
        if process.returncode:
            (KEPT / "findings" / f"{target}-{time.time_ns()}.log").write_text(log)
            fuzzed.findings.append(_finding(log))
            print(log[-4_000:], file=sys.stderr, flush=True)
    fuzzed.seconds = round(time.monotonic() - begun, 1)
    fuzzed.kept = len(list(corpus.iterdir()))
    return fuzzed


def _command(target: str, corpus: Path, dictionary: Path, seconds: int) -> Sequence[str]:
    return [
        *("nice", "-n", "19", sys.executable, "-m", "tests.fuzz.target", target),
        *(f"-max_total_time={seconds}", f"-timeout={UNIT_S}", f"-rss_limit_mb={MEMORY_MIB}", f"-max_len={MAX_BYTES}"),
        *(f"-dict={dictionary}", f"-artifact_prefix={KEPT}/findings/{target}-", "-print_final_stats=1"),
        str(corpus),
    ]


def _escaped(word: bytes) -> str:
    return "".join(chr(byte) if bytes([byte]).isalnum() else f"\\x{byte:02x}" for byte in word)


def _count(fuzzed: Fuzzed, log: str) -> None:
    def last(pattern: str) -> int:
        return int((re.findall(pattern, log) or ["0"])[-1])

    fuzzed.inputs += last(r"stat::number_of_executed_units:\s*(\d+)") or last(r"^#(\d+)\s")
    fuzzed.edges = max(fuzzed.edges, last(r"cov: (\d+)"))
    fuzzed.peak_mib = max(fuzzed.peak_mib, last(r"stat::peak_rss_mb:\s*(\d+)"))


def _finding(log: str) -> str:
    """The kind of error and the input's file."""
    raised = re.findall(r"^(\w[\w.]*(?:Error|Exception|Exit)\b.*)$", log, re.MULTILINE)
    stopped = re.findall(r"ERROR: libFuzzer: (.+)$", log, re.MULTILINE)
    file = re.findall(r"Test unit written to (\S+)", log)
    return ": ".join([*(raised or stopped or ["the process ended"])[-1:], *file[-1:]])


def show(rows: Sequence[Fuzzed]) -> None:
    """Prints a row for each target."""
    table = Table("target", "minutes", "inputs", "kept", "edges", "peak MiB", "findings", title="fuzzing")
    for row in rows:
        figures = (f"{row.seconds / 60:.1f}", row.inputs, row.kept, row.edges, row.peak_mib, "\n".join(row.findings))
        table.add_row(row.target, *map(str, figures))
    Console().print(table)


def main() -> int:
    """Returns 0 if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="of all targets together")
    parser.add_argument("--targets", default=",".join(SEEDS), help="separated by commas")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    targets = options.targets.split(",")
    rows = [fuzz(target, options.minutes * 60 / len(targets)) for target in targets]
    show(rows)
    if options.json:
        machine = {"cores": os.cpu_count(), "atheris": version("atheris"), "pillow": version("pillow")}
        command = "python -m tests.fuzz " + " ".join(sys.argv[1:])
        options.json.write_text(
            json.dumps({"command": command, **machine, "rows": list(map(asdict, rows))}, indent=1) + "\n"
        )
    return 1 if any(row.findings for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
