"""The program of a decoder: a process that decodes untrusted image files, and may be killed at any moment.

    python -m moderation.media.decoder_process SOCKET SHARED PARENT

Its parent (decoder.py) sends files through the socket SOCKET. Answers are lines of JSON on the same socket, and pixels
in the shared memory SHARED, a piece at a time. PARENT is the parent's process id.

The process holds nothing that is worth an attack: no other socket, no secret, an environment of a few names. It writes
no file and no memory image of a crash, has a limit of memory for each file, and ends when its parent ends. It imports
Pillow and what decoding needs, so that a new one is there at once.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from PIL import AvifImagePlugin, WebPImagePlugin  # noqa: F401  both are read
from PIL import Image as pil

from moderation.errors import PostError
from moderation.media import decoding
from moderation.media.limits import Spent
from moderation.media.pixels import PIXEL_BYTES, copy_pixels
from moderation.types import Detail, Reason

if TYPE_CHECKING:
    from moderation.settings import MediaSettings

PIECE_BYTES = 1280 << 10  # pixels that are handed over at once: 640 x 480 fit
PIECES = 4  # that lie in the shared memory at once, until the parent has copied them
SHARED_BYTES = PIECES * PIECE_BYTES
KEPT_BYTES = 96 << 20  # what a process may have kept of earlier files; with more, its parent replaces it
MAX_FRAMES = 20  # of an error
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38


class _LargerError(BaseException):
    """The file takes more memory than was asked for. No decoder catches it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class Server:
    """Answers the parent until it closes the socket."""

    def __init__(self, channel: socket.socket, shared: mmap.mmap) -> None:
        self._channel = channel
        self._incoming = channel.makefile("rb", buffering=1 << 16)
        self._shared = shared
        self._free = PIECES  # that the parent has copied
        self._next = 0  # the piece of the shared memory that is written next
        self._files: dict[int, bytes] = {}  # looked at, and not decoded yet
        self._memory = _Memory()
        self._pictures = 0  # bytes that the pictures of the file may still take in the parent

    def serve(self) -> None:
        """Returns when the parent has closed the socket."""
        said = self._hear()
        settings = cast("MediaSettings", SimpleNamespace(**said["settings"])) if said else None
        self._say(ready=True)
        while settings is not None and (said := self._hear()):
            if "copied" in said:
                continue  # of the last file, whose pieces all had a place
            self._free, self._next = PIECES, 0
            self._memory.limit(said["memory"])
            self._pictures = said["pictures"]
            index, file = said["file"], self._received(said["size"])
            if "within" in said or index not in self._files:  # a file may be empty
                self._files[index] = file
            if "within" not in said:
                self._decode(self._files.pop(index), Spent(*said["spent"]), settings)
            elif said["within"] < 0:
                self._say(bytes=decoding.decoded_bytes(file, settings))
            else:
                self._decode_small(index, said, settings)

    def _decode_small(self, index: int, said: Mapping[str, Any], settings: MediaSettings) -> None:
        """Decodes the file if it is as small as that. Says how large it is otherwise."""

        def stop(size: int) -> None:
            if size > said["within"]:
                raise _LargerError(size)

        try:
            self._decode(self._files[index], Spent(*said["spent"]), settings, stop)
        except _LargerError as larger:
            self._say(bytes=larger.size)
        else:
            del self._files[index]

    def _decode(
        self, file: bytes, spent: Spent, settings: MediaSettings, announce: Callable[[int], None] = lambda _: None
    ) -> None:
        ended: dict[str, Any] = {}
        try:
            for picture in decoding.decode(file, settings, spent, announce):
                self._hand_over(picture)
        except _LargerError:
            raise
        except PostError as error:
            ended = {"reason": error.reason, "detail": error.problem.detail}
        except MemoryError:
            ended = {"reason": Reason.IMAGE_TOO_LARGE, "detail": Detail.MEMORY}
        except BaseException as error:  # noqa: BLE001  a decoder's panic is no Exception; this file is at fault
            ended = {"reason": Reason.IMAGE_CORRUPT, "error": type(error).__name__, "frames": _frames(error)}
        self._say(ended=ended, spent=[spent.shown, spent.animated], kept=self._memory.kept())

    def _hand_over(self, picture: pil.Image) -> None:
        """Gives the parent a picture, in pieces of whole rows."""
        width, height = picture.size
        self._pictures -= width * height * PIXEL_BYTES
        if self._pictures < 0:
            text = "the pictures of the image take more memory than its header announces"
            raise PostError(Reason.IMAGE_TOO_LARGE, text, detail=Detail.MEMORY)
        rows = PIECE_BYTES // (width * PIXEL_BYTES)
        for top in range(0, height, rows):
            count = min(rows, height - top)
            piece = picture if count == height else picture.crop((0, top, width, top + count))
            while not self._free:
                self._free += self._hear().get("copied") or sys.exit()
            copy_pixels(piece, self._shared, self._next * PIECE_BYTES)
            self._free, self._next = self._free - 1, (self._next + 1) % PIECES
            self._say(rows=[width, height, top, count])

    def _received(self, size: int) -> bytes:
        return self._incoming.read(size) if size else b""

    def _hear(self) -> dict[str, Any]:
        """The next line of the parent; empty: there is none any more."""
        line = self._incoming.readline()
        return json.loads(line) if line else {}

    def _say(self, **said: object) -> None:
        self._channel.sendall(json.dumps(said).encode() + b"\n")


class _Memory:
    """The memory of this process: private and writable, as the kernel counts it for RLIMIT_DATA."""

    def __init__(self) -> None:
        self._at_start, self._mapped = _pages(5), _pages(0)
        self._allowed = -1
        self._files = 0

    def limit(self, more: int) -> None:
        """Allows so many bytes more than at the start, and KEPT_BYTES."""
        if more == self._allowed:
            return
        self._allowed = more
        for kind, at_start in ((resource.RLIMIT_DATA, self._at_start), (resource.RLIMIT_AS, self._mapped)):
            hard = resource.getrlimit(kind)[1]
            with suppress(ValueError, OSError):  # a system that has no such limit, or a lower one for all processes
                resource.setrlimit(kind, (at_start + KEPT_BYTES + more, hard))

    def kept(self) -> int:
        """Bytes more than at the start. Looks at every sixteenth file, and behind each large one."""
        self._files += 1
        return max(0, _pages(5) - self._at_start) if self._allowed > KEPT_BYTES or self._files % 16 == 0 else 0


def _pages(field: int) -> int:
    """A field of /proc/self/statm, in bytes; 0 where there is no such file."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[field]) * mmap.PAGESIZE
    except OSError:
        return 0


def _frames(error: BaseException) -> str:
    """Where the error was raised, without its text, which may quote the file."""
    frames = list(traceback.walk_tb(error.__traceback__))[-MAX_FRAMES:]
    places = [(frame.f_code, number) for frame, number in frames]
    return "\n".join(f"{'/'.join(c.co_filename.split('/')[-3:])}:{number} {c.co_name}" for c, number in places)


def _confine(parent: int) -> None:
    """Takes from this process what it does not need, and ties its life to its parent's."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which still decodes while it drains
        signal.signal(number, signal.SIG_IGN)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:  # Linux
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        sys.exit()
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(kind, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")  # where memory runs out, the kernel takes this process and not its parent
    sys.dont_write_bytecode = True


def main() -> None:
    """Runs the process to its end."""
    if len(sys.argv) != 4:
        sys.exit("a worker starts this program; all that it imports is here")
    channel, shared, parent = (int(argument) for argument in sys.argv[1:4])
    pil.preinit()  # the other formats: no file waits for an import
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there are several decoders
    memory = mmap.mmap(shared, SHARED_BYTES)
    os.close(shared)
    _confine(parent)
    with socket.socket(fileno=channel) as opened, suppress(ConnectionError):
        Server(opened, memory).serve()


if __name__ == "__main__":
    main()
