"""Files of posts to draw from: JSON lines, each a post as on the posts topic, or a line of a golden set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moderation.errors import ConfigError
from moderation.evaluation.posts.posts import WrongLineError, members_of, post_of
from moderation.settings import MediaSettings
from moderation.types import Post

SHOWN = 10  # mistakes
FORM = '{"text": "I saw a lake", "images": [{"file": "lake.jpg"}]}'


@dataclass(frozen=True, slots=True)
class Line:
    """A post of a file, and the line on which it stands, from 1."""

    number: int
    post: Post


def read(path: Path, media: MediaSettings) -> tuple[list[Line], frozenset[Path]]:
    """The posts of a file, and the folders of its pictures. A post without an id gets that of its line.

    Of a line of a golden set, the post counts. Raises ConfigError with a line for each mistake: file, line, what to do.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {(error.strerror or 'no reason given').lower()}") from None
    found: list[Line] = []
    mistakes: list[str] = []
    folders: set[Path] = set()
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                members = members_of(line)
                post, of_line = post_of(members.get("post", members), number, path.parent, media)
            except WrongLineError as mistake:
                mistakes.append(f"{path}:{number}: {mistake}")
            else:
                found.append(Line(number, post))
                folders |= of_line
    if mistakes:
        more = [f"{path}: {len(mistakes) - SHOWN} lines more are wrong"] if len(mistakes) > SHOWN else []
        raise ConfigError("\n".join([*mistakes[:SHOWN], *more]))
    if not found:
        raise ConfigError(f"{path}: holds no post: write one a line, as in {FORM}")
    return found, frozenset(folders)
