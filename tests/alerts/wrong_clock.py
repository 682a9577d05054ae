"""A role whose clock is wrong by MODERATION_RIG_CLOCK seconds: `python -m tests.alerts.wrong_clock worker`."""

from __future__ import annotations

import os
import time

from moderation.cli import app


def main() -> None:
    off = float(os.environ.pop("MODERATION_RIG_CLOCK"))
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + off
    time.time_ns = lambda: now_ns() + int(off * 1e9)
    app.main()


if __name__ == "__main__":
    main()
