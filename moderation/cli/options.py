"""What several commands share: options, the terminal, and how they read the files that options name."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from moderation.errors import ConfigError

FILE_COLUMNS = 500
STANDARD_INPUT = Path("-")

out = Console(soft_wrap=True, emoji=False)  # :fire: stays as it is, as in the id of a post
err = Console(soft_wrap=True, emoji=False, stderr=True)

Text = Annotated[str, typer.Option(help="what the user wrote")]
Images = Annotated[list[Path], typer.Option("--image", help="file of a picture; repeat the option for each picture")]
Language = Annotated[str, typer.Option(help="language of the text (BCP 47), such as en or pt-BR")]
Surface = Annotated[str, typer.Option(help="where the platform shows the post, such as comment or profile")]
Tenant = Annotated[str, typer.Option(help="tenant whose post it is")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Address = Annotated[str | None, typer.Option("--api", help="host:port of the API; default MODERATION_API__LISTEN")]


def table_console() -> Console:
    """For tables on standard output. In a file or a pipe they cut nothing."""
    console = Console(emoji=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=FILE_COLUMNS, emoji=False)


def read_file(path: Path) -> bytes:
    """The bytes of a file that an option or a setting names. Raises ConfigError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def read_picture(path: Path) -> bytes:
    """The bytes of a picture's file. Raises ConfigError."""
    data = read_file(path)
    if not data:
        raise ConfigError(f"{path}: the file is empty")
    return data


def note_language(tag: str) -> None:
    """Says on standard error that a label of a post is no language tag: nothing else would tell."""
    from moderation.policies import languages

    if tag and not languages.is_valid(tag):
        err.print(
            f"the language {tag!r} is not a BCP 47 tag: no policy is excluded by it", highlight=False, markup=False
        )


def read_input(file: Path, most: int = -1) -> tuple[str, bytes]:
    """Name and bytes of a file, or of standard input, of which `most` bytes are read. Raises ConfigError."""
    if file == STANDARD_INPUT:
        return "standard input", sys.stdin.buffer.read(most)
    return str(file), read_file(file)


def check_content(text: str, images: list[Path]) -> None:
    """Raises ConfigError for a post that holds nothing."""
    if not text and not images:
        raise ConfigError("the post is empty: give --text, --image or both")
