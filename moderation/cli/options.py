"""What several commands share: options, the terminal, and how they read the files that options name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from moderation.errors import ConfigError

out = Console(soft_wrap=True)
err = Console(soft_wrap=True, stderr=True)

Text = Annotated[str, typer.Option(help="what the user wrote")]
Images = Annotated[list[Path], typer.Option("--image", help="file of a picture; repeat the option for each picture")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Address = Annotated[str | None, typer.Option("--api", help="host:port of the API; default MODERATION_API__LISTEN")]


def read_file(path: Path) -> bytes:
    """The bytes of a file that an option or a setting names. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def check_content(text: str, images: list[Path]) -> None:
    """Raises ConfigError for a post that holds nothing."""
    if not text and not images:
        raise ConfigError("the post is empty: give --text, --image or both")
