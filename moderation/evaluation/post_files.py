"""Posts of a file of JSON lines: posts as on the posts topic, or lines of a golden set, whose labels do not count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moderation.errors import ConfigError
from moderation.evaluation.posts import WrongLineError, members_of, post_of
from moderation.settings import MediaSettings
from moderation.types import Post

FORM = '{"text": "I saw a lake"}'
SHOWN = 10  # mistakes


@dataclass(frozen=True, slots=True)
class PostFile:
    """The posts of a file, in its order. folders: those of the pictures that lie in files."""

    posts: tuple[Post, ...]
    slices: tuple[Mapping[str, str], ...]  # of each post
    folders: frozenset[Path]


def read(path: Path, media: MediaSettings) -> PostFile:
    """Reads a file. Raises ConfigError with a line for each mistake: file, line, what to do."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ConfigError(f"{path}: not readable: {(error.strerror or 'no reason given').lower()}") from None
    posts: dict[str, Post] = {}
    slices: list[Mapping[str, str]] = []
    folders: set[Path] = set()
    mistakes: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            members = members_of(line)
            post, of_line = post_of(members.get("post", members), number, path.parent, media)
            of_post = _slices(members.get("slices", {}))
        except WrongLineError as mistake:
            mistakes.append(f"{path}:{number}: {mistake}")
            continue
        if post.id in posts:
            mistakes.append(f"{path}:{number}: post.id: another line has this id, too: give each post its own, or none")
            continue
        posts[post.id] = post
        slices.append(of_post)
        folders |= of_line
    if mistakes:
        more = [f"{path}: {len(mistakes) - SHOWN} lines more are wrong"] if len(mistakes) > SHOWN else []
        raise ConfigError("\n".join([*mistakes[:SHOWN], *more]))
    if not posts:
        raise ConfigError(f"{path}: holds no post: write one a line, as in {FORM}")
    return PostFile(tuple(posts.values()), tuple(slices), frozenset(folders))


def _slices(value: object) -> Mapping[str, str]:
    if isinstance(value, dict) and all(isinstance(word, str) for pair in value.items() for word in pair):
        return value
    raise WrongLineError('slices: must be an object of texts, as in {"surface": "comment"}')
