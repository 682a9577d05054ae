"""A position belongs to one life of a topic. The posts or the verdicts topic is deleted and made again, while an API
runs or is away: no old verdict is taken for a new one, and nothing is PENDING for ever. The tests play the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client import REGISTRY
from pydantic import SecretStr
from structlog.testing import capture_logs

from moderation.api import cursors
from moderation.types import Source, Verdict
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.moderation_service_pb2 import LOOKUP_STATE_FOUND as FOUND
from moderation.v1.moderation_service_pb2 import LOOKUP_STATE_NOT_FOUND as NOT_FOUND
from moderation.v1.moderation_service_pb2 import LOOKUP_STATE_PENDING as PENDING
from moderation.v1.post_pb2 import Post
from moderation.view import lives
from tests.support.builders import a_verdict
from tests.support.harness import PARTITIONS, Harness, running
from tests.support.logged import events
from tests.support.lookups import Api, changes, refused, service, until_serving, watching
from tests.support.recreated import id_of, make_again
from tests.support.topics import make_topics

BEFORE = 3  # records of each topic in its first life
LENGTHS = {"equal": BEFORE, "longer": 2 * BEFORE}
# A shorter one: tests/unit/view/test_outcomes.py.
ROWS = [("running", "sqlite", "longer"), ("away", "postgresql", "equal")]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
Names = Callable[[str], str]


class Case:
    """An API, the topics of one partition each that it follows, and a worker."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.kafka = api.settings.kafka
        self.channel: Any = None

    async def id(self) -> str:
        return await id_of(self.kafka.bootstrap, self.kafka.posts_topic)

    async def post(self, *post_ids: str) -> int:
        """Puts posts on their topic, as a producer of the platform. The last one's offset."""
        async with AIOKafkaProducer(bootstrap_servers=self.kafka.bootstrap) as producer:
            for post_id in post_ids:
                sent = await producer.send_and_wait(self.kafka.posts_topic, b"{}", key=post_id.encode())
        return int(sent.offset)

    def judged(self, post_id: str, offset: int, id: str, digest: str) -> Verdict:
        source = Source(self.kafka.posts_topic, 0, offset, 0, id)
        return a_verdict(post_id, source=source, content_digest=digest * 64)

    async def state(self, post_id: str, token: bytes = b"") -> tuple[int, str]:
        """What a lookup says, with the first character of the verdict's content digest."""
        request = pb.GetVerdictRequest(post_id=post_id, consistency_token=token)
        response = await service(self.channel).GetVerdict(request, timeout=10)
        return response.state, response.verdict.content_digest[:1]

    async def until(self, wanted: tuple[int, str], post_id: str, token: bytes) -> None:
        """Waits until a lookup says it; until then it is PENDING."""
        async with asyncio.timeout(20):
            while (state := await self.state(post_id, token)) != wanted:
                assert state == (PENDING, "")
                await asyncio.sleep(0.1)

    async def built(self, post_id: str) -> None:
        """Waits for a post's verdict. While the view is being built again, calls are refused."""
        async with asyncio.timeout(30):
            while True:
                try:
                    state, _ = await self.state(post_id)
                except grpc.aio.AioRpcError as error:
                    assert error.code() == UNAVAILABLE
                else:
                    if state == FOUND:
                        return
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def made_again(self, when: str, *topics: str) -> AsyncIterator[None]:
        """Topics are another life's in the block, with the same API or the next one."""
        if when == "running":
            async with self.api.running() as self.channel:
                assert (await self.state("edited"))[0] == FOUND
                await make_again(self.kafka.bootstrap, *topics)
                yield
            return
        async with self.api.running():
            pass
        self.api.stop.clear()
        await make_again(self.kafka.bootstrap, *topics)
        async with self.api.running() as self.channel:
            yield


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """Empty: the view is in a file."""
    return str(request.getfixturevalue("database")) if request.param == "postgresql" else ""


@pytest.fixture
async def case(database_url: str, kafka: str, names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """With BEFORE posts that are judged, one of which will be edited."""
    monkeypatch.setattr(lives, "NEWER_S", 2.0)
    posts, verdicts = names("posts"), names("verdicts")
    await make_topics(kafka, posts, verdicts)
    case = Case(Api(kafka, posts, verdicts, tmp_path))
    case.api.set(view_database=SecretStr(database_url))
    await case.post("a", "edited", "b")
    id = await case.id()
    await case.api.put(*(case.judged(post, n, id, "0") for n, post in enumerate(["a", "edited", "b"])))
    return case


@pytest.mark.parametrize(("when", "database_url", "length"), ROWS, indirect=["database_url"])
async def test_a_position_in_a_deleted_posts_topic_says_nothing_of_the_new_one(
    case: Case, when: str, length: str
) -> None:
    before = await case.id()
    async with case.made_again(when, case.kafka.posts_topic):
        id = await case.id()
        offset = await case.post(*(["other"] * (LENGTHS[length] - 1)), "edited")
        with_id, without = cursors.of_record(0, offset, id), cursors.of_record(0, offset)
        assert await case.state("edited", without) == (PENDING, "")  # at once, and never the old verdict
        assert await case.state("edited", with_id) == (PENDING, "")
        # What was judged before stays judged. What was not will never be.
        judged, never = cursors.of_record(0, BEFORE - 1, before), cursors.of_record(0, BEFORE, before)
        await case.until((FOUND, "0"), "edited", judged)
        await case.until((NOT_FOUND, ""), "edited", never)
        # Nor does an edited post through the API get the old verdict.
        edit = pb.ModeratePostRequest(post=Post(id="edited", text="another"))
        moderated = asyncio.ensure_future(service(case.channel).ModeratePost(edit, timeout=60))
        await case.api.put(case.judged("edited", BEFORE, before, "1"))  # late, on the text before: in a worker's hand
        await case.api.put(case.judged("edited", offset, id, "2"))
        await case.until((FOUND, "2"), "edited", with_id)
        await case.until((FOUND, "2"), "edited", without)
        assert await case.state("edited", never) == (FOUND, "2")  # which came later
        await asyncio.wait((moderated,), timeout=0.5)
        assert not moderated.done()
        await case.api.put(case.judged("edited", offset + 1, id, "3"))
        response = await moderated
        assert (response.state, response.verdict.content_digest[:1], response.source.topic_id) == (FOUND, "3", id)
        assert response.consistency_token == cursors.of_record(0, offset + 1, id)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_verdicts_topic_that_is_made_again_is_read_from_its_start(case: Case) -> None:
    """In SQLite and away, too: tests/integration/view/test_stores.py."""
    id, topic = await case.id(), case.kafka.verdicts_topic
    lost = {"topic": "verdicts", "partition": "0", "cause": "recreated"}
    count = REGISTRY.get_sample_value("moderation_records_lost_total", lost) or 0.0
    async with case.api.running() as case.channel, watching(case.channel) as watch:
        with capture_logs() as logged:
            await make_again(case.kafka.bootstrap, topic)
            async with refused(UNAVAILABLE, "NOT_READY", retry=True) as details:
                while await asyncio.wait_for(watch.read(), 30):
                    pass
            said = "the verdicts topic was deleted and made again; continue from the last consistency token"
            assert details == [said]
            posts = [f"new-{n}" for n in range(2 * BEFORE)]  # beyond the positions in the topic before
            await case.api.put(*(case.judged(post, BEFORE + n, id, "1") for n, post in enumerate(posts)))
            await case.built(posts[-1])
        await until_serving(case.channel)
        assert await case.state("a") == (NOT_FOUND, "")  # its verdict is gone with its topic
        await case.until((NOT_FOUND, ""), "a", cursors.of_record(0, BEFORE - 1, id))  # it was judged: not PENDING
        async with watching(case.channel, consistency_token=watch.first.consistency_token) as again:
            read = [change.post_id for change in again.first.changes]
            read += [post_id for post_id, _ in await changes(again, len(posts) - len(read))]
            assert read == posts
    assert REGISTRY.get_sample_value("moderation_records_lost_total", lost) == count + 1
    (event,) = events(logged, "records_lost")
    assert (event["topic"], event["committed"]) == (topic, BEFORE)


async def test_a_real_worker_names_the_life_of_each_record(harness: Harness, tmp_path: Path) -> None:
    """An edited post and an erasure on a posts topic that is made again under both roles."""
    api = Api(harness.kafka, *harness.topics[:2], tmp_path)

    async def moderated(channel: Any, text: str) -> pb.ModeratePostResponse:
        post = pb.ModeratePostRequest(post=Post(id="edited", text=text))
        response: pb.ModeratePostResponse = await service(channel).ModeratePost(post, timeout=60)
        assert response.state == FOUND
        assert response.verdict.source == response.source
        return response

    async with running(harness), api.running() as channel:
        for number in range(3):
            before = await moderated(channel, f"number {number}")
        await make_again(harness.kafka, harness.topics[0], partitions=PARTITIONS)
        after = await moderated(channel, "number 3")
        assert after.verdict.content_digest != before.verdict.content_digest
        assert after.source.topic_id == await id_of(harness.kafka, harness.topics[0]) != before.source.topic_id
        place = after.source.partition, after.source.offset + 1
        await harness.produce((place[0], b"edited", None, ()))
        erased = pb.WaitVerdictRequest(post_id="edited", consistency_token=cursors.of_record(*place))
        assert (await service(channel).WaitVerdict(erased, timeout=30)).state == NOT_FOUND
