"""Decodes posts' image files in processes that can be killed. A file that hangs or explodes costs its own post alone.

- A post has a decoder for itself, from the first look at its headers to its last picture. Decoders are used again.
- Pictures come one by one: those before a hang or a crash stay.
- A file has half of the time that its post has left, and the last file all of it. Then the decoder is killed.
- A decoder that crashes may have been killed from outside, so its file is tried once more, with a new process. If that
  ends, too, the file is at fault.
- Memory: a decoder may take what the file's header announces, with a reserve; more is refused to it (RLIMIT_DATA). A
  file that needs more is IMAGE_TOO_LARGE, mostly without the loss of a process. Nor do its pictures take more here.
- If no process can be started for START_S, the machine is at fault and no post: DeviceError ends the worker.

No library does this. concurrent.futures and loky take the end of one process for the end of all, and cannot stop a
task that hangs. pebble can, and it replaces a process; but it gives the result of a task at its end as one pickle, so
that pictures before a hang are lost and a process that was taken over by a file could run code here. Nor does it give
each task a limit of memory. All three need POSIX semaphores in /dev/shm, or import the parent's main module again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TypeVar

import structlog
from PIL import Image as pil

from moderation.errors import DeviceError, PostError
from moderation.media.decoder import Cause, Decoder, Ended, LostError, NotStartedError, Untrusted
from moderation.media.limits import Spent
from moderation.observability import metrics
from moderation.settings import MediaSettings
from moderation.types import Detail, Problem, Reason

TRIES = 2  # at a file whose decoder ends
TICK_S = 1.0  # between two checks of a file's time
START_S = 20.0  # of attempts to start a process
RETRY_S = 1.0  # between two of them
RESERVE_BYTES = 64 << 20  # besides what the header announces: tables, profiles, a decoder's own buffers
STEP_BYTES = 16 << 20  # of limits of memory: most files have the same
ERROR_CHARS = 2_000  # of what a decoder says about an error

log = structlog.get_logger()

T = TypeVar("T")


class DecoderPool:
    """At most `posts_at_once` decoder processes. They start when they are needed."""

    def __init__(self, settings: MediaSettings) -> None:
        self._settings = settings
        self._free = asyncio.Semaphore(settings.posts_at_once)
        self._idle: list[Decoder] = []
        self._running: set[Decoder] = set()
        self._posts: set[Decoding] = set()  # that have a decoder, or wait for one

    def __len__(self) -> int:
        """Posts that have a decoder, or wait for one."""
        return len(self._posts)

    @asynccontextmanager
    async def opened(self, files: Mapping[int, bytes]) -> AsyncIterator[Decoding]:
        """Has a decoder for the files of one post, by the index of their image, until the context is left."""
        decoding = Decoding(self, self._settings, files)
        self._posts.add(decoding)
        try:
            async with self._free:
                try:
                    yield decoding
                finally:
                    await decoding.close()
        finally:
            self._posts.discard(decoding)

    async def warm_up(self) -> None:
        """Starts a decoder. Raises DeviceError if none can be started."""
        self.give_back(await self.take())

    async def take(self) -> Decoder:
        """Returns a decoder that nobody else has. Raises DeviceError if none can be started."""
        while self._idle:
            if (decoder := self._idle.pop()).alive:
                return decoder
            await self.lost(decoder)  # killed from outside: no file is at fault
        until = time.monotonic() + START_S
        told = False
        while not self._idle:
            try:
                decoder = await Decoder.start(self._settings)
            except NotStartedError as error:
                if time.monotonic() >= until:
                    raise DeviceError(f"no decoder process can be started: {error}") from None
                if not told:
                    log.warning("decoder_not_started", error=str(error))
                    told = True
                await asyncio.sleep(RETRY_S)
            else:
                self._running.add(decoder)
                metrics.DECODERS.set(len(self._running))
                return decoder
        return self._idle.pop()

    def give_back(self, decoder: Decoder) -> None:
        """Lets other posts have it."""
        self._idle.append(decoder)

    async def end(self, decoder: Decoder) -> tuple[Cause, int]:
        """Ends the process if it still runs. Returns why it has ended, and its exit code or minus its signal."""
        try:
            return await decoder.end()
        finally:
            self._running.discard(decoder)
            metrics.DECODERS.set(len(self._running))

    async def lost(self, decoder: Decoder) -> Cause:
        """Ends a decoder that was lost. Says so, and returns why it was."""
        cause, code = await self.end(decoder)
        metrics.DECODERS_LOST.labels(cause).inc()
        log.warning("decoder_lost", cause=cause, exit_code=code)
        return cause

    async def close(self) -> None:
        """Kills all processes. Later posts start new ones."""
        self._idle.clear()
        for decoder in self._running:
            decoder.kill()
        for decoder in list(self._running):
            await self.end(decoder)


class Decoding:
    """The image files of one post, with a decoder for them."""

    def __init__(self, pool: DecoderPool, settings: MediaSettings, files: Mapping[int, bytes]) -> None:
        self._pool = pool
        self._settings = settings
        self._files = dict(sorted(files.items()))
        self._held = sum(map(len, files.values()))  # bytes of files that a decoder keeps
        self._sizes: dict[int, int] = {}  # bytes that decoding takes, of the files that were looked at
        self._given: set[int] = set()  # files that the current decoder has
        self._decoder: Decoder | None = None
        self._asked = False  # whether the decoder owes an answer
        self._left = settings.timeout_s
        self._spent = Spent()
        self.pictures: list[tuple[int, pil.Image]] = []  # with the index of their image
        self.problems: dict[int, Problem] = {}

    async def begin(self, small: int) -> int:
        """Returns the bytes that `decode` takes, by the headers. Decodes a lone file that takes at most `small`."""
        lone = len(self._files) == 1
        for index in self._files:
            with self._problem_of(index):
                question = partial(self._look, index, small if lone else 0, lone)
                answer = await self._ask(question, self._left if lone else self._left / 2)
                if isinstance(answer, Ended):
                    await self._take(answer)
                else:
                    self._sizes[index] = answer
        return sum(self._sizes.values())

    async def decode(self) -> None:
        """Decodes the files whose headers could be read. Pictures and problems are there as they come."""
        for index in self._sizes:
            seconds = self._left / 2 if index != max(self._sizes) else self._left
            with self._problem_of(index):
                await self._take(await self._ask(partial(self._decode, index), seconds))

    async def close(self) -> None:
        """Gives the decoder back, or ends it if it still owes an answer."""
        if self._decoder is None:
            return
        if self._asked:
            decoder = self._decoder
            self._without_decoder()
            await self._pool.end(decoder)
        else:
            self._pool.give_back(self._decoder)

    @contextmanager
    def _problem_of(self, index: int) -> Iterator[None]:
        try:
            yield
        except PostError as error:
            self.problems[index] = Problem(error.reason, f"images[{index}]", error.problem.detail)

    async def _ask(self, question: Callable[[Decoder], Awaitable[T]], seconds: float) -> T:
        """Returns what the decoder answers in time. Raises PostError: the file is at fault; and DeviceError."""
        for _ in range(TRIES):
            if self._decoder is None:
                self._decoder = await self._pool.take()
            decoder, self._asked = self._decoder, True
            timer = _Timer(seconds, partial(decoder.kill, Cause.LATE))
            try:
                with timer:
                    answer = await question(decoder)
            except LostError:
                self._without_decoder()
                if await self._pool.lost(decoder) is Cause.LATE:
                    raise PostError(Reason.DEADLINE_EXCEEDED, "the image takes too long to decode") from None
            else:
                self._asked = False
                return answer
            finally:
                seconds -= timer.used
                self._left -= timer.used
        raise PostError(Reason.IMAGE_CORRUPT, "the image ends its decoder", detail=Detail.ENDS_DECODER)

    async def _look(self, index: int, small: int, lone: bool, decoder: Decoder) -> int | Ended:
        self._given.add(index)
        self._forget(index)
        file = self._untrusted(index, small, small if lone else 0)
        return await decoder.look(file, small if lone else -1, partial(self._keep, index))

    async def _decode(self, index: int, decoder: Decoder) -> Ended:
        self._forget(index)
        file = self._untrusted(index, self._sizes[index], self._sizes[index])
        return await decoder.decode(file, partial(self._keep, index), known=index in self._given)

    async def _take(self, ended: Ended) -> None:
        """Takes note of how the decoding of a file has ended. Raises PostError if the file is at fault."""
        self._spent = ended.spent
        if ended.worn and (decoder := self._decoder):
            self._without_decoder()
            await self._pool.end(decoder)
        if ended.error:
            log.warning("image_failed", error=ended.error[:ERROR_CHARS], frames=ended.frames[:ERROR_CHARS])
        if ended.reason is not None:
            raise PostError(ended.reason, "the image cannot be decoded", detail=ended.detail)

    def _untrusted(self, index: int, size: int, pictures: int) -> Untrusted:
        memory = RESERVE_BYTES + size + self._held
        return Untrusted(index, self._files[index], -(-memory // STEP_BYTES) * STEP_BYTES, pictures, self._spent)

    def _keep(self, index: int, picture: pil.Image) -> None:
        self.pictures.append((index, picture))

    def _forget(self, index: int) -> None:
        """Drops the pictures of an earlier attempt at the file."""
        while self.pictures and self.pictures[-1][0] == index:
            self.pictures.pop()

    def _without_decoder(self) -> None:
        self._decoder, self._asked = None, False
        self._given.clear()


class _Timer:
    """Calls `on_late` after so many seconds. The time in which this process was stopped does not count."""

    def __init__(self, seconds: float, on_late: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_late = on_late
        self.used = 0.0

    def __enter__(self) -> _Timer:
        self._checked = time.monotonic()
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.cancel()
        self._count()

    def _count(self) -> None:
        now = time.monotonic()
        self.used += min(now - self._checked, 2 * TICK_S)
        self._checked = now

    def _tick(self) -> None:
        self._count()
        if self.used >= self._seconds:
            self._on_late()
        else:
            self._wait()

    def _wait(self) -> None:
        delay = min(TICK_S, max(0.001, self._seconds - self.used))
        self._handle = asyncio.get_running_loop().call_later(delay, self._tick)
