"""Runs once more, alone, what failed beside other tests: `python -m tests.once_more CACHE`. `make test` calls it.

A busy machine may be too slow for a test that waits for a real broker, a real process or a real clock. Such a test is
named in the last lines, so that nobody overlooks it, and it is no failure if it passes alone. More than MOST failures
are never the machine's, and are not run again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MOST = 3  # tests


def failed(cache: Path) -> list[str]:
    """The tests that failed in the run with this cache folder of pytest, by their ids."""
    path = cache / "v/cache/lastfailed"
    return sorted(json.loads(path.read_text())) if path.exists() else []


def main(cache: Path) -> int:
    """Returns the exit status for `make`: 0 if all that failed has passed alone."""
    tests = failed(cache)
    if not 0 < len(tests) <= MOST:
        print(f"{len(tests)} tests failed: too many to be the machine's fault, so none is run once more", flush=True)
        return 1
    print(f"{len(tests)} failed beside other tests, and run once more alone", flush=True)
    status = subprocess.run([sys.executable, "-m", "pytest", *tests], check=False).returncode
    said = "passed alone" if status == 0 else "failed alone, too"
    print("".join(f"FAILED BESIDE OTHERS: {test}\n" for test in tests) + f"The run alone: {said}.", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
