"""Prints how far the model's pictures are from the browser's: `python -m tests.browser [SUBJECT ...]`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.browser.browser import Browser
from tests.browser.parity import SUBJECTS, cases_of, compared


def main() -> None:
    """A line for each subject, and one for each file that differs."""
    with tempfile.TemporaryDirectory(prefix="moderation-browser-") as folder, Browser.started(Path(folder)) as browser:
        for subject in sys.argv[1:] or SUBJECTS:
            seen = list(compared(browser, cases_of(subject)))
            wrong = [one for one in seen if one.wrong]
            mean = sum(one.mean for one in seen) / len(seen)
            worst = max(seen, key=lambda one: one.worst)
            print(f"{subject}: {len(seen)} files, {len(wrong)} wrong, {mean:.2f} levels on average, worst {worst}")
            for one in wrong:
                print(f"  {one}")


main()
