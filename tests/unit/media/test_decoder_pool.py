"""A file that hangs, crashes or explodes in a decoder costs its own image alone."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from moderation.errors import DeviceError
from moderation.media import decoder, decoder_pool
from moderation.media.decoder_pool import DecoderPool, _Timer
from moderation.media.decoding import decoded_bytes
from moderation.media.pixels import PIXEL_BYTES
from moderation.media.reader import Media, Read
from moderation.settings import MediaSettings
from moderation.types import Detail, Image, Problem, Reason
from tests.support.builders import a_file, a_post, an_image, inline
from tests.support.misbehaving_decoder import PROGRAM, SHOWN, bad, once

Make = Callable[[MediaSettings], Media]
PATIENT = MediaSettings(posts_at_once=2)
ENDS = Problem(Reason.IMAGE_CORRUPT, "images[0]", Detail.ENDS_DECODER)
LIES = [
    "no json",
    "no line",
    "no object",
    "no reason",
    "rows outside",
    "rows too long",
    "no rows",
    "too many pixels",
    "a negative size",
    "more than announced",
    "too many pictures",
    "too deep",
]


@pytest.fixture
async def a_media(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Makes readers whose decoders misbehave when a file asks for it. At the end none of their processes is left."""
    monkeypatch.setattr(decoder, "PROGRAM", PROGRAM)
    pids: list[int] = []
    spawn = decoder._spawn

    def spawn_noted(channel: int, memory: int) -> subprocess.Popen[bytes]:
        process = spawn(channel, memory)
        pids.append(process.pid)
        return process

    monkeypatch.setattr(decoder, "_spawn", spawn_noted)
    async with AsyncExitStack() as opened:

        def make(settings: MediaSettings) -> Media:
            media = Media(settings)
            opened.push_async_exit(media)
            return media

        yield make
    assert pids, "a test with decoders"
    assert all(map(gone, pids))


async def read_of(media: Media, *images: Image) -> Read:
    async with media.opened(a_post(images=images)) as read:
        return read


def pids(media: Media) -> set[int]:
    return {each._process.pid for each in media.decoders._running}


def gone(pid: int) -> bool:
    """Whether the process has ended, and its parent knows it."""
    return not Path(f"/proc/{pid}").exists()


def seen_of(pid: int, file: str) -> str:
    return Path(f"/proc/{pid}/{file}").read_text("utf-8")


def opened_by(pid: int) -> list[str]:
    """Its open files: of each the first word."""
    return sorted(re.split("[: ]", os.readlink(each))[0] for each in Path(f"/proc/{pid}/fd").iterdir())


def lost(cause: str) -> float:
    return REGISTRY.get_sample_value("moderation_decoder_processes_lost_total", {"cause": cause}) or 0.0


@pytest.mark.parametrize("word", ["hang", "spin"])
async def test_a_file_that_hangs_costs_its_own_image_and_its_pictures_before_that_are_judged(
    a_media: Make, word: str
) -> None:
    media, before = a_media(MediaSettings(timeout_s=3.0, posts_at_once=2)), lost("late")
    await read_of(media, inline())
    with capture_logs() as events:
        hung, other = await asyncio.gather(read_of(media, bad(word), inline()), read_of(media, inline()))
    assert hung.problems == (Problem(Reason.DEADLINE_EXCEEDED, "images[0]"),)
    assert hung.problems[0].limit, "the outcome is at least REVIEW"
    assert hung.images == (0, 1)
    assert (other.images, other.problems) == ((0,), ())
    assert lost("late") == before + 1
    assert [(event["event"], event["cause"]) for event in events] == [("decoder_lost", "late")]
    assert (await read_of(media, inline())).images == (0,)


async def test_posts_that_hang_never_use_up_the_decoders(a_media: Make) -> None:
    media = a_media(MediaSettings(timeout_s=1.0, posts_at_once=2))
    await asyncio.gather(*(read_of(media, bad("hang")) for _ in range(5)))
    assert not pids(media)
    assert (await read_of(media, inline())).problems == ()


@pytest.mark.parametrize("word", ["crash", "exit"])
async def test_a_file_that_ends_its_decoder_is_tried_twice_and_not_for_ever(a_media: Make, word: str) -> None:
    media, before = a_media(PATIENT), lost("crashed")
    read = await read_of(media, bad(word), inline(an_image(10, 10)))
    assert read.problems == (ENDS,)
    assert [picture.size for picture in read.content.pictures] == [(64, 48), (10, 10)]
    assert lost("crashed") == before + 2


async def test_an_answer_of_a_decoder_that_is_none_counts_as_its_end(
    a_media: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_pool, "TRIES", 1)
    media, before = a_media(MediaSettings(max_images=len(LIES))), lost("lied")
    read = await read_of(media, *map(bad, LIES))
    assert read.problems == tuple(replace(ENDS, path=f"images[{index}]") for index in range(len(LIES)))
    assert sorted(set(read.images)) == [*range(len(LIES))], "each has the picture before the lie"
    assert lost("lied") == before + len(LIES)


@pytest.mark.parametrize("word", ["header:crash", "header:hang", "header:bomb"])
async def test_a_header_that_hangs_or_crashes_is_read_elsewhere_too(a_media: Make, word: str) -> None:
    media = a_media(MediaSettings(timeout_s=4.0))
    read = await read_of(media, bad(word), inline())
    reason = Reason.DEADLINE_EXCEEDED if word == "header:hang" else Reason.IMAGE_CORRUPT
    assert [(problem.reason, problem.path) for problem in read.problems] == [(reason, "images[0]")]
    assert read.images == (1,)


async def test_a_decoder_that_is_killed_from_outside_costs_nothing(a_media: Make, tmp_path: Path) -> None:
    media, before = a_media(PATIENT), lost("killed")
    read = await read_of(media, once(tmp_path / "killed"), inline())
    assert (read.images, read.problems) == ((0, 1), ())
    assert lost("killed") == before + 1
    (idle,) = pids(media)
    os.kill(idle, signal.SIGKILL)  # while nobody needs it
    assert (await read_of(media, inline())).problems == ()


async def test_a_file_that_explodes_is_refused_the_memory_and_its_decoder_lives(
    a_media: Make,
) -> None:
    media = a_media(PATIENT)
    read = await read_of(media, bad("bomb"), inline())
    assert read.problems == (Problem(Reason.IMAGE_TOO_LARGE, "images[0]", Detail.MEMORY),)
    assert read.images == (0, 1)


async def test_pictures_take_no_more_memory_here_than_the_header_announces(a_media: Make) -> None:
    media, before = a_media(PATIENT), sum(map(lost, decoder.Cause))
    async with media.opened(a_post(images=(bad("larger"), inline()))) as read:
        assert read.problems == (Problem(Reason.IMAGE_TOO_LARGE, "images[0]", Detail.MEMORY),)
        held = sum(PIXEL_BYTES * picture.width * picture.height for picture in read.content.pictures)
        assert held <= 2 * decoded_bytes(a_file(), PATIENT)
        assert 2 < read.images.count(0) < 100
    assert sum(map(lost, decoder.Cause)) == before, "the process lives"


async def test_decoders_that_are_killed_while_nobody_needs_them_cost_no_file_a_try(a_media: Make) -> None:
    media, before = a_media(MediaSettings(posts_at_once=3)), lost("killed")
    post = a_post(images=(inline(),))
    async with AsyncExitStack() as stack:
        for _ in range(3):
            decoding = await stack.enter_async_context(media.decoders.opened({0: post.images[0].data or b""}))
            await decoding.begin(1 << 20)
    idle = pids(media)
    assert len(idle) == 3
    for pid in idle:
        os.kill(pid, signal.SIGKILL)
    while any(each.alive for each in media.decoders._running):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert (await read_of(media, inline())).problems == ()
    assert lost("killed") == before + 3
    assert not idle & pids(media)


async def test_a_decoder_that_keeps_memory_is_replaced(a_media: Make) -> None:
    media = a_media(PATIENT)
    leaks = [inline()] * 15
    for image in leaks:
        await read_of(media, image)
    (first,) = pids(media)
    assert (await read_of(media, bad("leak"))).problems == (), "the sixteenth: it is looked at"
    await read_of(media, inline())
    assert first not in pids(media)


async def test_a_panic_of_a_decoder_is_its_files_fault_and_its_text_stays_there(
    a_media: Make,
) -> None:
    media = a_media(PATIENT)
    with capture_logs() as events:
        read = await read_of(media, bad("panic"), inline())
    assert read.problems == (Problem(Reason.IMAGE_CORRUPT, "images[0]"),)
    (event,) = events
    assert (event["event"], event["error"]) == ("image_failed", "BaseException")
    assert "misbehaving_decoder.py" in event["frames"]
    assert SHOWN not in f"{events}{read}"


async def test_a_post_that_is_given_up_leaves_no_decoder_behind(a_media: Make) -> None:
    media = a_media(MediaSettings(posts_at_once=1))
    await read_of(media, inline())
    before = pids(media)
    reading = asyncio.create_task(read_of(media, bad("hang")))
    while not any(each._asked for each in media.decoders._posts):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    reading.cancel()
    await asyncio.wait([reading])
    assert (await read_of(media, inline())).problems == ()
    assert not before & pids(media)


async def test_a_large_picture_comes_in_pieces_and_is_the_same(a_media: Make) -> None:
    picture = an_image(3_000, 2_000)
    picture.paste((0, 99, 1), (7, 1_990, 2_000, 2_000))
    picture.putpixel((2_999, 437), (1, 2, 3))
    read = await read_of(a_media(PATIENT), inline(picture), inline(picture.rotate(90, expand=True)))
    assert [each.tobytes() for each in read.content.pictures] == [
        picture.tobytes(),
        picture.rotate(90, expand=True).tobytes(),
    ]


async def test_a_decoder_goes_on_behind_a_file_of_several_pieces(a_media: Make) -> None:
    """Its parent says that pieces are copied, also where nobody waits for their place any more."""
    media = a_media(MediaSettings(posts_at_once=1))
    with capture_logs() as logs:
        for size in ((700, 700), (64, 64), (500, 1_400), (64, 64)):
            async with media.opened(a_post(images=(inline(an_image(*size)),))) as read:
                assert [picture.size for picture in read.content.pictures] == [size]
    assert not [line for line in logs if line["event"] == "decoder_lost"]


async def test_a_decoder_inherits_neither_secrets_nor_files(a_media: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODERATION_MODEL__API_KEY", "secret")
    media = a_media(PATIENT)
    with tempfile.TemporaryFile() as file:
        os.set_inheritable(file.fileno(), True)
        await read_of(media, inline())
    (pid,) = pids(media)
    assert "secret" not in seen_of(pid, "environ")
    assert opened_by(pid) == ["/dev/null", "/dev/null", "/dev/null", "/memfd", "socket"]
    limits = [line.split()[-3:-1] for line in seen_of(pid, "limits").splitlines() if re.search("core|file size", line)]
    assert limits == [["0", "0"]] * 2
    assert seen_of(pid, "oom_score_adj") == "1000\n"
    assert "NoNewPrivs:\t1" in seen_of(pid, "status")


def test_a_decoder_imports_what_decoding_needs_and_no_more() -> None:
    program = (
        "import sys, moderation.media.decoder_process;"
        "print(*({'torch', 'numpy', 'pydantic', 'asyncio', 'structlog', 'aiokafka', 'aiohttp'} & sys.modules.keys()))"
    )
    heavy = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    assert heavy.stdout == "\n"


ORPHAN = """
import asyncio, sys
from moderation.media import decoder
from moderation.media.reader import Media
from moderation.settings import MediaSettings
from tests.support.builders import a_post
from tests.support.misbehaving_decoder import PROGRAM, bad

async def main():
    decoder.PROGRAM = PROGRAM
    media = Media(MediaSettings())
    await media.decoders.warm_up()
    print(*(each._process.pid for each in media.decoders._running), flush=True)
    async with media.opened(a_post(images=(bad("spin"),))):
        pass

asyncio.run(main())
"""


def test_a_decoder_that_hangs_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        orphan = Path(f"/proc/{int(parent.stdout.readline())}")
        assert orphan.exists()
        parent.kill()
    until = time.monotonic() + 20
    while orphan.exists() and "Z" not in (orphan / "stat").read_text().split():
        assert time.monotonic() < until, "the decoder outlives its parent"
        time.sleep(0.02)


@pytest.mark.parametrize("executable", ["/no/such/python", "/bin/false"])
async def test_when_no_process_can_be_started_the_machine_is_at_fault_and_no_post(
    monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(decoder_pool, "START_S", 0.05)
    monkeypatch.setattr(decoder_pool, "RETRY_S", 0.02)
    real = sys.executable
    monkeypatch.setattr(sys, "executable", executable)
    async with Media(PATIENT) as media:
        with capture_logs() as events, pytest.raises(DeviceError, match="no decoder process can be started"):
            await read_of(media, inline())
        assert [event["event"] for event in events] == ["decoder_not_started"]
        with pytest.raises(DeviceError):
            await media.decoders.warm_up()
        monkeypatch.setattr(sys, "executable", real)
        assert (await read_of(media, inline())).problems == ()


async def test_posts_go_on_with_the_decoders_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_pool, "RETRY_S", 0.02)
    async with Media(MediaSettings(posts_at_once=4)) as media:
        await media.decoders.warm_up()
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        reads = await asyncio.gather(*(read_of(media, inline()) for _ in range(12)))
        assert [read.problems for read in reads] == [()] * 12
        assert len(pids(media)) == 1


async def test_a_closed_pool_starts_again(a_media: Make) -> None:
    media = a_media(PATIENT)
    await read_of(media, inline())
    await media.decoders.close()
    assert not pids(media)
    assert (await read_of(media, inline())).problems == ()


async def test_the_time_in_which_this_process_was_stopped_is_not_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_pool, "TICK_S", 0.01)
    late = asyncio.Event()
    with _Timer(0.5, late.set) as timer:
        time.sleep(0.6)  # noqa: ASYNC251  as if the process were stopped
        await asyncio.sleep(0)
        assert not late.is_set()
        assert timer.used <= 0.02 + 1e-6
        await asyncio.wait_for(late.wait(), 20)


async def test_a_post_waits_for_a_decoder_and_for_its_share_of_memory_without_a_deadlock() -> None:
    file = Image(data=a_file(an_image(300, 300)))
    async with Media(MediaSettings(posts_at_once=2, max_decoded_bytes=600_000)) as media:
        reads = await asyncio.gather(*(read_of(media, *[file] * (1 + number % 3)) for number in range(12)))
    assert [len(read.content.pictures) for read in reads] == [1, 2, 3] * 4
    assert len(DecoderPool(PATIENT)) == 0


async def test_a_caller_that_is_cancelled_while_a_decoder_ends_leaves_none() -> None:
    """Cancelled a second time, as by a deadline around a worker's stop."""
    process = await decoder.Decoder.start(MediaSettings())
    ending = asyncio.create_task(process.end())
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert gone(process._process.pid)


async def test_an_empty_file_ends_no_decoder() -> None:
    """It may come from a store. Alone, and beside another one: the two ways of asking."""
    unread = Problem(Reason.IMAGE_UNSUPPORTED, "images[0]", Detail.NO_PICTURE)
    async with Media(PATIENT) as media:
        with capture_logs() as events:
            for others in ((), (inline(),)):
                read = await read_of(media, Image(data=b""), *others)
                assert (read.problems, read.images) == ((unread,), (1,) * len(others))
    assert events == []
