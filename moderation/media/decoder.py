"""A decoder process as its parent sees it: started, asked, killed. decoder_process.py is the other end.

The process may have been taken over by a hostile file. So each of its answers is checked, none is unpickled, and the
shared memory cannot be made smaller or larger. An answer that is none counts as the end of the process.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from PIL import Image as pil

import moderation
from moderation.media.decoder_process import KEPT_BYTES, PIECE_BYTES, PIECES, SHARED_BYTES
from moderation.media.limits import Spent
from moderation.media.pixels import PIXEL_BYTES
from moderation.settings import MediaSettings
from moderation.types import Detail, Reason

PROGRAM = "moderation.media.decoder_process"
START_S = 30.0  # for a process to answer first; on a busy machine it takes seconds
END_S = 5.0  # for a killed process to be gone
ACKNOWLEDGED = PIECES // 2  # pieces that are said to be copied at once
MAX_LINE_BYTES = 64 << 10
VIEWS = 16  # pictures of one frame, at most: on two grounds, turned, in other colours
# What Python needs to start. Keys and passwords of the service are in other variables.
INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LD_LIBRARY_PATH",
    "PYTHONHOME",
    "SYSTEMROOT",
    "TMPDIR",
    "TZ",
)
# glibc keeps the memory of a picture for the next one: fresh pages cost more than decoding. It gives back what is more.
ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(17 << 20),  # Pillow takes memory in blocks of 16 MiB
    "MALLOC_TRIM_THRESHOLD_": str(32 << 20),
}
SEALS = (
    getattr(fcntl, "F_ADD_SEALS", 1033),
    getattr(fcntl, "F_SEAL_SHRINK", 2) | getattr(fcntl, "F_SEAL_GROW", 4),
)


Keep = Callable[[pil.Image], None]


class Cause(StrEnum):
    """Why a decoder process was lost."""

    LATE = "late"  # killed: the file took too long
    CRASHED = "crashed"  # a signal such as SIGSEGV, or an exit
    KILLED = "killed"  # SIGKILL of somebody else: the kernel where memory runs out, or a person
    LIED = "lied"  # killed: an answer was none


class LostError(Exception):
    """The decoder process has ended, or must be killed."""


class NotStartedError(Exception):
    """No decoder process could be started. The text says why."""


@dataclass(frozen=True, slots=True)
class Untrusted:
    """An image file of a post, and what decoding it may take."""

    index: int  # in the post
    data: bytes
    memory: int  # in bytes
    pictures: int  # bytes that its pictures may take in this process
    spent: Spent  # by earlier files of the post


@dataclass(frozen=True, slots=True)
class Ended:
    """How the decoding of a file has ended; without a reason, all of it was decoded."""

    spent: Spent
    reason: Reason | None = None
    detail: Detail | None = None
    error: str = ""  # the type of an error that no decoder should raise
    frames: str = ""  # of that error
    worn: bool = False  # whether the process keeps so much memory that it must be replaced


@dataclass(slots=True)
class _Question:
    """What the process is asked, and what of the answer has come."""

    file: Untrusted
    keep: Keep
    answer: asyncio.Future[int | Ended]
    left: int  # pixels that the pictures of the file may have
    views: int  # that may still come
    shown: int = 0  # pixels of those that came
    picture: pil.Image | None = None  # of which rows are missing
    row: int = 0  # the first of them
    pieces: int = 0  # that were copied


class Decoder(asyncio.Protocol):
    """One process. It answers one question at a time."""

    def __init__(self, settings: MediaSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes]
        self._shared: mmap.mmap
        self._transport: asyncio.Transport | None = None
        self._ready = asyncio.get_running_loop().create_future()
        self._question: _Question | None = None
        self._rest = b""  # of a line that has come in part
        self._cause: Cause | None = None

    @property
    def alive(self) -> bool:
        """Whether it can be asked, as far as is known here."""
        return self._transport is not None and not self._transport.is_closing() and self._process.poll() is None

    @classmethod
    async def start(cls, settings: MediaSettings) -> Decoder:
        """Starts a process, and returns when it answers. Raises NotStartedError."""
        decoder = cls(settings)
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                memory = _shared_memory()
                try:
                    decoder._shared = mmap.mmap(memory, SHARED_BYTES)
                    decoder._process = _spawn(theirs.fileno(), memory)
                except BaseException:
                    ours.close()
                    raise
                finally:
                    os.close(memory)
        except OSError as error:
            raise NotStartedError(f"{os.strerror(error.errno or 0)}, errno {error.errno}") from None
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: decoder, sock=ours)
            decoder._write({"settings": _limits(settings)})
            async with asyncio.timeout(START_S):
                await decoder._ready
        except (LostError, TimeoutError):
            await decoder.end()
            command = f"{sys.executable} -P -m {PROGRAM}"
            raise NotStartedError(f"it ended at its start, or did not answer; `{command}` shows why") from None
        except BaseException:
            await decoder.end()
            raise
        return decoder

    async def look(self, file: Untrusted, within: int, keep: Keep) -> int | Ended:
        """Gives the process a file. Returns the bytes that decoding it takes, by its header. Raises LostError.

        If they are no more than `within`, decodes it as `decode` does.
        """
        return await self._ask(file, file.data, keep, {"within": within})

    async def decode(self, file: Untrusted, keep: Keep, *, known: bool) -> Ended:
        """Has a file decoded. `keep` is called with each picture as soon as it is there. Raises LostError.

        known: whether the process has the file from `look`.
        """
        answer = await self._ask(file, b"" if known else file.data, keep, {})
        if isinstance(answer, int):
            raise self._lied()
        return answer

    async def _ask(self, file: Untrusted, data: bytes, keep: Keep, said: Mapping[str, int]) -> int | Ended:
        if self._transport is None or self._transport.is_closing():
            raise LostError
        answer: asyncio.Future[int | Ended] = asyncio.get_running_loop().create_future()
        left = min(self._settings.max_post_pixels - file.spent.shown, file.pictures // PIXEL_BYTES)
        self._question = _Question(file, keep, answer, left, VIEWS * (1 + self._settings.max_frames))
        bounds = {"memory": file.memory, "pictures": file.pictures, "spent": [file.spent.shown, file.spent.animated]}
        self._write({"file": file.index, "size": len(data), **bounds, **said}, data)
        return await answer

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if self._cause is None:
                self._hear(line)
        if len(self._rest) > MAX_LINE_BYTES:
            self._lied()

    def connection_lost(self, _: Exception | None) -> None:
        """See asyncio.Protocol."""
        if not self._ready.done():
            self._ready.set_exception(LostError())
            self._ready.exception()  # its caller may have left
        if self._question is not None and not self._question.answer.done():
            self._question.answer.set_exception(LostError())

    def _hear(self, line: bytes) -> None:
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        match said, self._question:
            case {"ready": True}, None if not self._ready.done():
                self._ready.set_result(None)
            case {"rows": [int(width), int(height), int(top), int(count)]}, _Question() as question:
                self._rows(question, (width, height), top, count)
            case {
                "ended": dict(ended),
                "spent": [int(shown), int(animated)],
                "kept": int(kept),
            }, _Question() as question:
                before = question.file.spent
                spent = Spent(max(shown, before.shown + question.shown), max(animated, before.animated))
                self._answered(question, _ended(ended, spent, kept))
            case {"bytes": int(size)}, _Question() as question if size >= 0:
                self._answered(question, size)
            case _:
                self._lied()

    def _rows(self, question: _Question, size: tuple[int, int], top: int, count: int) -> None:
        """Copies rows out of the shared memory."""
        width, height = size
        used = width * count * PIXEL_BYTES
        begins = question.picture is None and min(size) > 0 and width * height <= question.left and question.views > 0
        goes_on = question.picture is not None and question.picture.size == size
        if not (begins or goes_on) or top != question.row or not 0 < count <= height - top or used > PIECE_BYTES:
            self._lied()
            return
        if question.picture is None:
            question.left, question.views = question.left - width * height, question.views - 1
            question.shown += width * height
            question.picture = pil.new("RGB", size, None)  # of no colour until it is copied
        picture = question.picture
        begin = question.pieces % PIECES * PIECE_BYTES
        with memoryview(self._shared) as whole, whole[begin : begin + used] as view:
            rows = picture if count == height else pil.new("RGB", (width, count), None)
            rows.frombytes(view, "raw", "RGBX", 0, 1)
        if rows is not picture:
            picture.paste(rows, (0, top))
        question.row = top + count
        question.pieces += 1
        if question.pieces % ACKNOWLEDGED == 0:
            self._write({"copied": ACKNOWLEDGED})
        if question.row == height:
            question.picture, question.row = None, 0
            question.keep(picture)

    def _answered(self, question: _Question, answer: int | Ended | None) -> None:
        if answer is None or question.picture is not None:
            self._lied()
            return
        self._question = None
        if not question.answer.done():  # its caller has left
            question.answer.set_result(answer)

    # Its end

    def kill(self, cause: Cause | None = None) -> None:
        """Kills the process; who waits for an answer gets a LostError. cause: None: nobody needs it any more."""
        self._cause = self._cause or cause
        self._process.kill()
        if self._transport is not None:
            self._transport.abort()

    async def end(self) -> tuple[Cause, int]:
        """Kills the process if it still runs. Returns why it has ended, and its exit code or minus its signal."""
        told = self._cause
        try:
            code = self._process.poll() if told else await self._exit_code(0.2)  # its socket closes first
            if code is None:
                self.kill()
                code = await self._exit_code(END_S)
        except BaseException:  # whoever waits is cancelled: the process must not outlive it
            self.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
            raise
        finally:
            if self._transport is not None:
                self._transport.abort()
        await asyncio.sleep(0)  # the socket is closed by the event loop
        self._shared.close()
        killed = Cause.KILLED if code == -signal.SIGKILL else Cause.CRASHED
        return told or killed, code or 0

    async def _exit_code(self, patience: float) -> int | None:
        """Waits until the process has ended. None: it has not."""
        until, pause = time.monotonic() + patience, 0.0005
        while (code := self._process.poll()) is None and time.monotonic() < until:
            await asyncio.sleep(pause)
            pause = min(0.05, 2 * pause)
        return code

    def _write(self, said: Mapping[str, Any], data: bytes = b"") -> None:
        if self._transport is not None:
            self._transport.write(json.dumps(said).encode() + b"\n" + data)  # at once: the process wakes up once

    def _lied(self) -> LostError:
        self.kill(Cause.LIED)
        return LostError()


def _ended(ended: Mapping[str, Any], spent: Spent, kept: int) -> Ended | None:
    """How decoding has ended; None: the process says what no decoder says."""
    try:
        reason = Reason(ended["reason"]) if ended.get("reason") else None
        detail = Detail(ended["detail"]) if ended.get("detail") else None
    except ValueError:
        return None
    worn = kept > 2 * KEPT_BYTES // 3 or detail is Detail.MEMORY
    return Ended(spent, reason, detail, str(ended.get("error", "")), str(ended.get("frames", "")), worn)


def _limits(settings: MediaSettings) -> dict[str, Any]:
    """The limits that decoding needs: numbers, and no path."""
    names = [*settings.model_dump(), *(name for name in vars(type(settings)) if name.startswith("max_"))]
    limits = {name: getattr(settings, name) for name in names}
    return {name: value for name, value in limits.items() if isinstance(value, int | float)}


def _spawn(channel: int, memory: int) -> subprocess.Popen[bytes]:
    """Starts the process with these two files open, and no others. It is a new program: it inherits no thread."""
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    root = str(Path(moderation.__file__).parents[1])  # of the package, which need not be installed
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment |= ALLOCATOR
    return subprocess.Popen(  # noqa: S603  our own program
        [sys.executable, "-P", "-m", PROGRAM, str(channel), str(memory), str(os.getpid())],
        env=environment,
        pass_fds=(channel, memory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # decoders write there what is wrong with a file
    )


def _shared_memory() -> int:
    """A file in memory, of SHARED_BYTES. It needs no file system: neither /dev/shm nor a root that can be written."""
    if not hasattr(os, "memfd_create"):  # not Linux
        with tempfile.TemporaryFile() as file:
            file.truncate(SHARED_BYTES)
            return os.dup(file.fileno())
    memory = os.memfd_create("moderation-decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(memory, SHARED_BYTES)
    fcntl.fcntl(memory, *SEALS)
    return memory
