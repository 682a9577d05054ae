"""Posts that wait, posts that are lost, and posts that are broken."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator

from moderation.kafka.clients import consumer
from moderation.settings import KafkaSettings
from tests.alerts.site import Site
from tests.alerts.situation import Alert, situation

SKEW_S = 3_000.0  # over an hour ahead, and the broker takes no record


@situation(
    Alert("ModerationTransactionOpen", {"topic": "posts", "partition": "0", "instance": "worker-0"}),
    Alert("ModerationNoProgress", {"partition": "0"}),
    caused="a producer of posts holds a transaction open on partition 0; posts follow it",
    top="behind an open transaction",
    silent="868 posts unjudged for 14 minutes: lag 0, age 0, nothing in top",
)
async def posts_behind_a_transaction(site: Site) -> AsyncGenerator[None, None]:
    await site.begin(apis=1)
    producer = await site.open_transaction(site.posts)
    await site.put(30)
    site.caused()
    yield
    await producer.abort_transaction()


@situation(
    Alert("ModerationTransactionOpen", {"topic": "verdicts", "instance": "api-0"}),
    Alert("ModerationViewNoProgress", {"instance": "api-0"}),
    caused="a foreign producer holds a transaction open on the verdicts topic; verdicts follow it",
    top="behind an open transaction",
    silent="lookups say `no verdict`; the view 0 behind, SERVING",
)
async def verdicts_behind_a_transaction(site: Site) -> AsyncGenerator[None, None]:
    await site.begin(apis=1)
    producer = await site.open_transaction(site.verdicts)
    await site.put(30)
    site.caused()
    yield
    await producer.abort_transaction()


@situation(
    Alert("ModerationRecordsLost", {"topic": "posts"}),
    caused="20 posts are removed (DeleteRecords) behind the committed offset while the worker is away",
    top="of the posts topic",
    silent="no log line, no metric, lag 0",
)
async def posts_lost(site: Site) -> AsyncGenerator[None, None]:
    await site.begin()
    await site.put(20)
    await site.judged(20)
    await site.stop("worker-0")
    await site.put(20)
    await site.remove(site.posts)
    site.start()
    site.caused()
    yield
    site.note = site.event("worker-0", "records_lost")


@situation(
    Alert("ModerationRecordsLost", {"topic": "verdicts"}),
    caused="20 verdicts are removed (DeleteRecords) while the API is away",
    top="of the verdicts topic",
    silent="no log line, no metric, the view 0 behind",
)
async def verdicts_lost(site: Site) -> AsyncGenerator[None, None]:
    await site.begin(apis=1)
    await site.put(20)
    await site.judged(20)
    await asyncio.sleep(2)  # the view's position is kept with its entries
    await site.stop("api-0")
    await site.put(20)
    await site.judged(40)
    await site.remove(site.verdicts)
    site.start("api")
    site.caused()
    yield
    site.note = site.event("api-0", "records_lost")


@situation(
    Alert("ModerationLagHigh"),
    Alert("ModerationLagBurn"),
    caused="twice as many posts as a slow model can judge; each post waits for over a minute of real time",
    top="behind by",
    silent="84 % of the posts had waited over a minute: LagBurn read 0 %",
)
async def worker_too_slow(site: Site) -> AsyncGenerator[None, None]:
    await site.begin(MODEL="fake?step_ms=500", WORKER__BATCH_TOKENS="1", WORKER__SELF_CHECK_S="0")
    await site.put(60)
    site.caused()
    async with site.meanwhile(site.stream(4)):
        yield
    await site.stop("worker-0")
    site.start()
    await site.during(site.stream(20))


@situation(
    Alert("ModerationDeadLetters", {"reason": "NOT_DECODABLE"}),
    caused="every fifth post is broken JSON",
)
async def broken_posts(site: Site) -> AsyncGenerator[None, None]:
    await site.begin()
    numbers = itertools.count()

    def mostly_good(_: int) -> tuple[bytes, bytes]:
        key, value = site.a_post()
        return key, b'{"id": ' if next(numbers) % 5 == 0 else value

    site.caused()
    async with site.meanwhile(site.stream(10, mostly_good)):
        yield
    await site.during(site.stream(10))


@situation(
    Alert("ModerationPostsUnread", {"reason": "IMAGE_NOT_FOUND"}),
    caused="every other post has an image whose file is not there",
)
async def images_missing(site: Site) -> AsyncGenerator[None, None]:
    await site.begin()
    gone = f"file://{site.folder}/gone.png"

    def with_image(number: int) -> tuple[bytes, bytes]:
        return site.a_post(images=[{"uri": gone}]) if number % 2 else site.a_post()

    site.caused()
    async with site.meanwhile(site.stream(10, with_image)):
        yield
    await site.during(site.stream(20))


@situation(
    Alert("ModerationKeysMisplaced", {"instance": "worker-0"}),
    caused="a producer puts all posts on partition 0, whatever their keys",
)
async def keys_misplaced(site: Site) -> AsyncGenerator[None, None]:
    await site.begin()
    site.caused()
    await site.put(30, partition=0)
    yield


@situation(
    Alert("ModerationClockSkew", {"clock": "producers", "instance": "worker-0"}),
    caused="a producer's clock is 50 minutes ahead",
    top="the clock of a producer",
    silent="50 minutes ahead hid any age",
)
async def producers_clock_wrong(site: Site) -> AsyncGenerator[None, None]:
    await site.begin()

    async def ahead() -> None:
        while True:
            await site.put(3, timestamp_ms=int((time.time() + SKEW_S) * 1000))
            await asyncio.sleep(0.5)

    site.caused()
    async with site.meanwhile(ahead()):
        yield
    await site.during(site.stream(10))


@situation(
    Alert("ModerationClockSkew", {"clock": "worker", "instance": "worker-0"}),
    caused="the worker's clock is 50 minutes ahead",
    top="the clock of worker",
    silent="raised the lag; the runbook blamed producers",
)
async def workers_clock_wrong(site: Site) -> AsyncGenerator[None, None]:
    await site.topics()
    site.start(module="tests.alerts.wrong_clock", RIG_CLOCK=str(SKEW_S))
    await site.calm()
    await site.during(site.stream(10))
    site.caused()
    yield
    await site.stop("worker-0")
    site.start()


@situation(
    Alert("ModerationNoPartitions"),
    Alert("ModerationGroupShared"),
    caused="a foreign member of the group has the topic's only partition",
)
async def no_partition(site: Site) -> AsyncGenerator[None, None]:
    await site.topics(partitions=1)
    settings = KafkaSettings(bootstrap=site.kafka, posts_topic=site.posts, group=site.group)
    foreign = consumer(settings, group_id=site.group)
    foreign._client._client_id = "a"  # the assignor goes by member ids, which begin with it
    await foreign.start()
    foreign.subscribe([site.posts])

    async def poll() -> None:
        while True:
            await foreign.getmany(timeout_ms=200)

    async with site.meanwhile(poll()):
        site.start()
        await site.ready()
        site.caused()
        yield
    await foreign.stop()
