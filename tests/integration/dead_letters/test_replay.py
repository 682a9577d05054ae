"""Dead letters are put on the posts topic again as they were, and undo nothing that came later: on a real Kafka."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from typer.testing import CliRunner

from moderation.cli.app import app
from moderation.dead_letters import sending
from moderation.dead_letters.decisions import Decision, Why
from moderation.dead_letters.letters import Selection
from moderation.dead_letters.replay import Order, replay
from moderation.settings import MediaSettings
from moderation.types import Reason
from moderation.v1 import post_pb2
from tests.support.builders import a_file
from tests.support.harness import PARTITIONS, Harness, running
from tests.support.logged import logging_restored

WRITTEN = "what-a-user-wrote"
PROTOBUF = [
    ("content-type", b"application/x-protobuf"),
    ("traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01"),
    ("own", b""),
]
AWAY = 3  # a partition on which no post of these tests belongs
WRITE = Order(write=True)


@pytest.fixture
def stored(harness: Harness, tmp_path: Path) -> Harness:
    """Workers that read pictures from a folder, and dead letters that keep little."""
    media = MediaSettings(max_bytes=4 << 20, roots=(tmp_path,))
    changed = harness.with_kafka(max_dead_letter_bytes=1024)
    return replace(changed, settings=changed.settings.model_copy(update={"media": media}))


@pytest.fixture(params=["exactly_once", "at_least_once"])
def each_stored(request: pytest.FixtureRequest, stored: Harness) -> Harness:
    return stored.with_kafka(delivery=request.param)


def picture(tmp_path: Path) -> str:
    """The reference of a picture that is not there yet."""
    return f"file://{tmp_path}/later.png"


def a_post(id: str, tmp_path: Path, text: str = WRITTEN) -> bytes:
    return json.dumps({"id": id, "tenant": "shop", "text": text, "images": [{"uri": picture(tmp_path)}]}).encode()


def edit(id: str) -> bytes:
    return json.dumps({"id": id, "text": "violates:spam"}).encode()


async def put(harness: Harness, id: str, value: bytes | None, partition: int = 0, headers: Any = ()) -> None:
    await harness.produce((partition, id.encode(), value, headers))


async def replayed(harness: Harness, order: Order) -> dict[str, Decision]:
    """By post id."""
    return {decision.letter.post_id: decision async for decision in replay(harness.settings.kafka, order)}


async def ends(harness: Harness) -> list[dict[TopicPartition, int]]:
    async with AIOKafkaConsumer(bootstrap_servers=harness.kafka) as consumer:
        return [
            await consumer.end_offsets([TopicPartition(topic, number) for number in range(PARTITIONS)])
            for topic in harness.topics
        ]


async def outcomes(harness: Harness, count: int) -> dict[str, str]:
    """What the newest verdict of each post says, by its id."""
    said: dict[str, str] = {}
    for record in sorted(await harness.read(harness.topics[1], count), key=lambda record: record.timestamp):
        value = json.loads(record.value) if record.value else None
        said[record.key.decode()] = f"{value['outcome']} {value['status']}" if value else "erased"
    return said


async def ran(harness: Harness, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    environment = {**harness.environment, "MODERATION_MEDIA__ROOTS": str(harness.settings.media.roots[0])}
    with logging_restored():
        result = await asyncio.to_thread(CliRunner().invoke, app, ["dlq", *arguments], env=environment)
    assert WRITTEN not in result.output
    return result.exit_code, result.stdout, result.stderr


async def test_a_replay_undoes_nothing_that_came_later(each_stored: Harness, tmp_path: Path) -> None:
    stored = each_stored
    message = post_pb2.Post(id="protobuf", text=WRITTEN, images=[post_pb2.Image(uri=picture(tmp_path))])
    async with running(stored):
        for id in ("plain", "edited", "erased", "moved"):
            await put(stored, id, a_post(id, tmp_path))
        await put(stored, "protobuf", message.SerializeToString(), 1, PROTOBUF)
        await put(stored, "large", a_post("large", tmp_path, WRITTEN * 1000), 2)
        await put(stored, "broken", b'{"id": "broken", "note": 1}', 2)
        await stored.dead_letters(7)
        await put(stored, "edited", edit("edited"))
        await put(stored, "moved", edit("moved"), AWAY)
        await put(stored, "erased", None)
        verdicts = 7 + 2 + PARTITIONS
        await outcomes(stored, verdicts)
        before = await ends(stored)
        (tmp_path / "later.png").write_bytes(a_file())

        dry = await replayed(stored, Order())
        assert await ends(stored) == before, "a dry run writes nothing"
        said = {id: decision.skip and decision.skip.why for id, decision in dry.items()}
        assert said == {
            "plain": None,
            "protobuf": None,
            "large": None,
            "edited": Why.LATER,
            "moved": Why.LATER,
            "erased": Why.ERASED,
            "broken": Why.SAME_AGAIN,
        }
        done = await replayed(stored, WRITE)
        assert {id: decision.skip and decision.skip.why for id, decision in done.items()} == said
        verdicts += 3
        assert await outcomes(stored, verdicts) == {
            "plain": "OUTCOME_ALLOW STATUS_FINAL",
            "protobuf": "OUTCOME_ALLOW STATUS_FINAL",
            "large": "OUTCOME_ALLOW STATUS_FINAL",
            "edited": "OUTCOME_REMOVE STATUS_FINAL",
            "moved": "OUTCOME_REMOVE STATUS_FINAL",
            "erased": "erased",
            "broken": "OUTCOME_REVIEW STATUS_UNDETERMINED",
        }
        letter = done["protobuf"].letter
        posts = {
            f"{stored.topics[0]}/{each.partition}/{each.offset}": each
            for each in await stored.read(stored.topics[0], 1)
        }
        again = posts[done["protobuf"].at]
        assert (again.key, again.value, again.partition) == (b"protobuf", message.SerializeToString(), 1)
        assert list(again.headers) == [*PROTOBUF, ("replay-of", letter.position.encode())]
        assert posts[done["large"].at].value == a_post("large", tmp_path, WRITTEN * 1000)

        twice = await replayed(stored, WRITE)
        assert {id for id, each in twice.items() if each.skip and each.skip.why == Why.REPLAYED} == {
            "plain",
            "protobuf",
            "large",
        }
        assert not [each for each in twice.values() if each.at], "a second run does nothing"
        broken = await replayed(stored, Order(Selection(reasons=frozenset({"NOT_DECODABLE"})), write=True))
        assert list(broken) == ["broken"]
        assert broken["broken"].at
        newest = max(await stored.dead_letters(8), key=lambda each: each.timestamp)
        assert dict(newest.headers)["replay-of"] == broken["broken"].letter.position.encode()
    assert len(await stored.read(stored.topics[1], verdicts + 1)) == verdicts + 1


async def test_an_edit_that_waits_is_later_too(stored: Harness, tmp_path: Path) -> None:
    async with running(stored):
        for id in ("edited", "erased", "same"):
            await put(stored, id, a_post(id, tmp_path))
        await stored.dead_letters(3)
    await put(stored, "edited", edit("edited"), AWAY)
    await put(stored, "erased", None)
    decisions = await replayed(stored, WRITE)
    assert {id: each.skip and each.skip.why for id, each in decisions.items()} == {
        "edited": Why.LATER,
        "erased": Why.ERASED,
        "same": None,
    }
    decisions = await replayed(stored, WRITE)
    assert decisions["same"].skip
    assert decisions["same"].skip.why == Why.REPLAYED


async def test_what_comes_in_the_middle_of_a_replay_stays_the_latest(
    each_stored: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, sent, came = each_stored, sending._put, list[int]()

    async def put_late(producer: Any, records: Sequence[Any], at_ms: int | None) -> Any:
        """All has been looked at, and the records are on their way."""
        if not came:
            await put(stored, "edited", b'{"id": "edited", "text": "harmless"}')
            await put(stored, "erased", None)
        elif len(came) == 1:
            await put(stored, "edited", edit("edited"))
        came.append(len(records))
        return await sent(producer, records, at_ms)

    async with running(stored):
        for id in ("edited", "erased", "other"):
            await put(stored, id, a_post(id, tmp_path))
        await stored.dead_letters(3)
        (tmp_path / "later.png").write_bytes(a_file())
        monkeypatch.setattr(sending, "_put", put_late)
        decisions = await replayed(stored, WRITE)
        transactions = stored.settings.kafka.delivery == "exactly_once"
        assert {id: each.skip and each.skip.why for id, each in decisions.items()} == {
            "edited": Why.LATER if transactions else Why.OVERTAKEN,
            "erased": Why.ERASED if transactions else Why.OVERTAKEN,
            "other": None,
        }
        # Without transactions, each replay is there, and behind it the later record again: of the two edits, too.
        count = 3 + 1 + PARTITIONS + 1 + 1 + (0 if transactions else 2 + 2 + PARTITIONS)
        assert await outcomes(stored, count) == {
            "edited": "OUTCOME_REMOVE STATUS_FINAL",
            "erased": "erased",
            "other": "OUTCOME_ALLOW STATUS_FINAL",
        }


async def test_what_the_posts_topic_has_lost_is_said_and_the_rest_comes_at_its_rate(
    stored: Harness, tmp_path: Path
) -> None:
    small = [f"small-{number}" for number in range(3)]
    async with running(stored):
        await put(stored, "large", a_post("large", tmp_path, WRITTEN * 1000))
        for id in small:
            await put(stored, id, a_post(id, tmp_path))
        await stored.dead_letters(4)
        admin = AIOKafkaAdminClient(bootstrap_servers=stored.kafka)
        await admin.start()
        try:
            await admin.delete_records({TopicPartition(stored.topics[0], 0): RecordsToDelete(before_offset=4)})
        finally:
            await admin.close()
        (tmp_path / "later.png").write_bytes(a_file())
        began = time.monotonic()
        decisions = await replayed(stored, Order(write=True, rate=2))
        assert time.monotonic() - began >= 1, "two in the first second"
        assert decisions["large"].skip
        assert decisions["large"].skip.why == Why.NOT_WHOLE
        newest = await outcomes(stored, 4 + 3)
        assert {newest[id] for id in small if decisions[id].at} == {"OUTCOME_ALLOW STATUS_FINAL"}


async def test_the_commands_as_typed(stored: Harness, tmp_path: Path) -> None:
    async with running(stored):
        await put(stored, "post", a_post("post", tmp_path))
        await put(stored, "broken", b'{"id": "broken", "note": 1}', 2)
        (letter, _) = sorted(await stored.dead_letters(2), key=lambda each: each.partition)
    code, printed, _ = await ran(stored, "list")
    assert code == 0
    assert "2 in all, 2 shown:\n" in printed
    assert "  1 NOT_DECODABLE (unknown field)\n" in printed
    assert f"0/{letter.offset}" in printed
    code, printed, _ = await ran(stored, "list", "--json", "--reason", "image_not_found", "--tenant", "shop")
    (one,) = map(json.loads, printed.splitlines())
    assert (one["post"], one["path"], one["whole"]) == ("post", "images[0].uri", True)
    saved = tmp_path / "saved"
    code, printed, said = await ran(stored, "show", f"0/{letter.offset}", "--save", str(saved))
    assert (code, saved.read_bytes()) == (0, a_post("post", tmp_path))
    assert "refused with IMAGE_NOT_FOUND" in printed
    assert printed.endswith("replay: would be replayed if its position is named\n")
    code, printed, _ = await ran(stored, "show", f"0/{letter.offset}", "--json")
    assert json.loads(printed)["replay"]["fate"] == "would be replayed"
    code, printed, said = await ran(stored, "replay", "--reason", Reason.IMAGE_NOT_FOUND)
    assert printed == f"0/{letter.offset} of post, IMAGE_NOT_FOUND: would be replayed\n"
    assert said == "1 would be replayed, 0 skipped\nnothing was written: --yes does it\n"
    code, printed, said = await ran(stored, "replay", "--yes")
    assert f"of post, IMAGE_NOT_FOUND: replayed as {stored.topics[0]}/0/" in printed
    assert said.startswith("1 were replayed, 1 skipped\n  1 SAME_AGAIN: ")
    assert (await ran(stored, "show", f"0/{letter.offset}", "--save", str(saved)))[0] == 1, "no file is replaced"
    code, printed, _ = await ran(stored, "replay", "--yes", "--json", f"0/{letter.offset}")
    assert [(one["fate"], one["why"]) for one in map(json.loads, printed.splitlines())] == [("skipped", "REPLAYED")]
