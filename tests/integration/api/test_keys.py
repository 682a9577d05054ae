"""A withdrawn key ends the watches and waits of its tokens. Keys that are too old admit no caller."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import pytest

from moderation.api import watches
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.post_pb2 import Post
from tests.support.builders import a_verdict
from tests.support.key_server import a_key, a_set, a_token
from tests.support.lookups import SERVICE, Api, refused, service

OLD, NEW = a_key(), a_key()
DENIED = grpc.StatusCode.UNAUTHENTICATED


def bearer(key: Any, id: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {a_token(key, id)}"),)}


@pytest.fixture
def file(running_api: Api, tmp_path: Path) -> Path:
    """The key set of the API."""
    file = tmp_path / "keys.json"
    file.write_bytes(a_set(old=OLD, new=NEW))
    auth = {"jwt_keys": str(file), "jwt_audience": "moderation", "jwt_issuer": "https://id", "jwt_refresh_s": 0.05}
    running_api.set(auth=auth, max_wait_s=60.0)
    return file


def write(file: Path, content: bytes) -> None:
    file.write_bytes(content)


async def withdrawn(channel: grpc.aio.Channel) -> None:
    """Returns once the API does not accept the old key any more."""
    async with asyncio.timeout(30):
        async with refused(DENIED, "UNAUTHENTICATED"):
            while True:
                await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"), **bearer(OLD, "old"))


async def read_on(stream: Any, seen: list[str]) -> None:
    """Reads until the stream ends with an error."""
    while True:
        seen += [change.post_id for change in (await stream.read()).changes]


@pytest.mark.parametrize("beat_s", [0.2, 60.0])
async def test_a_watch_ends_with_its_key(
    running_api: Api, file: Path, monkeypatch: pytest.MonkeyPatch, beat_s: float
) -> None:
    monkeypatch.setattr(watches, "BEAT_S", beat_s)
    async with running_api.running() as channel:
        ended = service(channel).WatchVerdicts(pb.WatchVerdictsRequest(), **bearer(OLD, "old"))
        stays = service(channel).WatchVerdicts(pb.WatchVerdictsRequest(), **bearer(NEW, "new"))
        await ended.read()
        await stays.read()
        write(file, b"{")  # says nothing about any key
        await running_api.put(a_verdict("before"))
        for stream in (ended, stays):
            while not (message := await stream.read()).changes:
                pass
            assert [change.post_id for change in message.changes] == ["before"]
        write(file, a_set(new=NEW))
        await withdrawn(channel)
        if beat_s > 1:  # else a watch without changes ends as well
            await running_api.put(a_verdict("after"))
        seen: list[str] = []
        async with refused(DENIED, "UNAUTHENTICATED"), asyncio.timeout(20):
            await read_on(ended, seen)
        assert not seen
        if beat_s > 1:
            while not (message := await stays.read()).changes:
                pass
            assert [change.post_id for change in message.changes] == ["after"]
        stays.cancel()


async def test_a_wait_gets_no_verdict_once_its_key_is_withdrawn(running_api: Api, file: Path) -> None:
    async with running_api.running() as channel:
        token = await running_api.accepted(channel, Post(id="x", text="fine"), **bearer(OLD, "old"))
        calls = [
            service(channel).WaitVerdict(pb.WaitVerdictRequest(post_id="x", consistency_token=token), **bearer(key, id))
            for key, id in ((OLD, "old"), (NEW, "new"))
        ]
        # On one connection calls begin in their order: when this call is answered, the others wait.
        await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="x"), **bearer(OLD, "old"))
        write(file, a_set(new=NEW))
        await withdrawn(channel)
        await running_api.put(running_api.judged("x", token))
        async with refused(DENIED, "UNAUTHENTICATED"):
            await calls[0]
        assert (await calls[1]).state == pb.LOOKUP_STATE_FOUND


@pytest.mark.parametrize("method", ["GetVerdict", "WatchVerdicts", "ModeratePost"])
async def test_a_request_whose_body_comes_after_its_key_was_withdrawn_is_refused(
    running_api: Api, file: Path, method: str
) -> None:
    request = {
        "GetVerdict": pb.GetVerdictRequest(post_id="a"),
        "WatchVerdicts": pb.WatchVerdictsRequest(),
        "ModeratePost": pb.ModeratePostRequest(post=Post(id="a", text="fine")),
    }[method]
    async with running_api.running() as channel:
        stub: Any = channel.stream_stream(f"/{SERVICE}/{method}")
        stays, ends = (stub(**bearer(key, id)) for key, id in ((NEW, "new"), (OLD, "old")))
        # On one connection calls begin in their order: when this call is answered, the others have been admitted.
        await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"), **bearer(OLD, "old"))
        write(file, a_set(new=NEW))
        await withdrawn(channel)
        async with refused(DENIED, "UNAUTHENTICATED"), asyncio.timeout(20):
            await ends.write(request.SerializeToString())
            await ends.read()
        if method != "ModeratePost":
            await stays.write(request.SerializeToString())
            assert isinstance(await stays.read(), bytes)
        stays.cancel()


async def test_expired_keys_admit_no_caller_until_they_are_read_again(running_api: Api, file: Path) -> None:
    auth = running_api.settings.auth.model_copy(update={"jwt_keys_max_age_s": 1.0})
    running_api.settings = running_api.settings.model_copy(update={"auth": auth})
    get, new = pb.GetVerdictRequest(post_id="a"), bearer(NEW, "new")
    async with running_api.running() as channel:
        watch = service(channel).WatchVerdicts(pb.WatchVerdictsRequest(), **new)
        await watch.read()
        good = a_set(old=OLD, new=NEW)
        write(file, b"{")
        async with asyncio.timeout(30), refused(grpc.StatusCode.UNAVAILABLE, "NOT_READY", retry=True):
            while await service(channel).GetVerdict(get, **new):
                pass
        await running_api.put(a_verdict("b"))
        seen: list[str] = []
        async with asyncio.timeout(30), refused(grpc.StatusCode.UNAVAILABLE, "NOT_READY", retry=True):
            await read_on(watch, seen)
        assert not seen
        write(file, good)
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await service(channel).GetVerdict(get, **new)
                    break
