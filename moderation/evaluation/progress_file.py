"""Verdicts of a long command as they come, in a file, so that the command can go on after an interruption."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from google.protobuf import json_format
from google.protobuf.message import Message

from moderation.errors import ConfigError, cause_of
from moderation.types import Post
from moderation.v1.verdict_pb2 import Verdict

SUFFIX = ".part"


class ProgressFile:
    """Verdicts by post, beside the file that they are for. It holds no content of posts.

    question: digest of what was asked. Verdicts of another question are dropped.
    """

    def __init__(self, path: Path, question: str) -> None:
        """Raises ConfigError if the file cannot be written."""
        self.path = path
        self._found: dict[str, Verdict] = {}
        end = self._read(question)
        try:
            self._file = path.open("r+b" if end else "wb")
            self._file.truncate(end)
            self._file.seek(end)
            if not end:
                self._line({"question": question})
        except OSError as error:
            raise ConfigError(f"{path}: not written: {cause_of(error)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._found)

    def get(self, post: Post) -> Verdict | None:
        """The verdict of an equal post, under this post's id."""
        if (verdict := self._found.get(_key(post))) is None:
            return None
        same = Verdict()
        same.CopyFrom(verdict)
        same.post_id = post.id
        return same

    def add(self, post: Post, verdict: Verdict) -> None:
        """Keeps a verdict, also if the process is killed after this."""
        self._found[_key(post)] = verdict
        self._line({"post": _key(post), "verdict": json_format.MessageToDict(verdict)})

    def done(self) -> None:
        """Removes the file: its verdicts are where they belong."""
        self._file.close()
        self.path.unlink(missing_ok=True)

    def _line(self, members: dict[str, object]) -> None:
        self._file.write(json.dumps(members, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def _read(self, question: str) -> int:
        """Reads what is there. Returns the end of the last whole line; 0: nothing there is of this question."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return 0
        end = 0
        for line in data.splitlines(keepends=True):
            try:
                members = json.loads(line) if line.endswith(b"\n") else None
                if not end and members != {"question": question}:
                    return 0
                if end and members:
                    message: Message = Verdict()
                    json_format.ParseDict(members["verdict"], message, ignore_unknown_fields=True)
                    self._found[members["post"]] = message  # type: ignore[assignment]
            except (ValueError, KeyError, TypeError, json_format.ParseError):
                break  # the process was killed while it wrote this line
            if members is None:
                break
            end += len(line)
        return end


def _key(post: Post) -> str:
    """What a verdict depends on, but for the id. A file that was written again is another."""
    images = [[_digest(image.data), image.uri, image.alt, _stamp(image.uri)] for image in post.images]
    return _digest(json.dumps([post.text, post.language, post.surface, post.tenant, images]).encode())


def _digest(data: bytes | None) -> str:
    return hashlib.sha256(data).hexdigest() if data is not None else ""


def _stamp(uri: str | None) -> list[int]:
    """Size and time of a local file."""
    if not uri or not uri.startswith("file:"):
        return []
    try:
        found = Path(unquote(urlsplit(uri).path)).stat()
    except (OSError, ValueError):
        return []
    return [found.st_size, found.st_mtime_ns]
