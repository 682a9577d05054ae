"""`moderation top`: what is wrong, and the sum of the /metrics of several workers and APIs, as one page in a terminal.

An endpoint that cannot be read is listed with its error and adds nothing to the sums.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from moderation import settings
from moderation.cli.options import table_console
from moderation.cli.top import troubles
from moderation.cli.top.page import page
from moderation.cli.top.reading import address, read
from moderation.cli.top.sums import Frame


def top(
    endpoints: Annotated[
        list[str] | None, typer.Argument(help="host:port or URL of each; default MODERATION_OPS__LISTEN, or port 9464")
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="seconds between two readings")] = 2.0,
    once: Annotated[
        bool,
        typer.Option(
            "--once",
            help="print one page after one interval, and exit: with 0 if nothing is wrong, 1 if something is, 2 if an "
            "endpoint is no address; the default in a file or a pipe",
        ),
    ] = False,
) -> None:
    """Show what is wrong, lag, rates, outcomes and calls of workers and APIs, from their /metrics. Ctrl-C ends it."""
    targets = endpoints or [settings.load().ops.listen or "127.0.0.1:9464"]
    urls = [address(target) for target in targets]
    with suppress(KeyboardInterrupt):
        if not render(urls, table_console(), interval=interval, once=once):
            sys.exit(1)


def render(urls: Sequence[str], console: Console, *, interval: float, once: bool) -> bool:
    """Prints one page, or keeps one page up to date until Ctrl-C. Returns whether nothing is wrong.

    A page can be kept up to date on a terminal only.
    """
    once = once or not console.is_terminal or console.is_dumb_terminal
    with ThreadPoolExecutor(len(urls)) as pool:
        before = list(pool.map(read, urls))
        if once:
            time.sleep(interval)  # rates are taken over this time
            now = list(pool.map(read, urls))
            frame = Frame(before, now)
            console.print(page(frame))
            return not troubles.found(frame)
        with Live(page(Frame((), before)), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                now = list(pool.map(read, urls))
                live.update(page(Frame(before, now)), refresh=True)
                before = now
