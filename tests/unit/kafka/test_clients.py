"""What an operator reads when the brokers cannot be reached, through a real socket without a listener."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    TransactionalIdAuthorizationFailed,
)
from structlog.testing import capture_logs

from moderation.errors import ConfigError, DeliveryError
from moderation.kafka import clients
from moderation.kafka.topics import check_topics
from moderation.settings import KafkaSettings
from tests.support.credentials import Credentials


@pytest.fixture
def closed_port() -> Iterator[str]:
    """host:port of a socket that accepts no connection."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


async def test_unreachable_broker_is_tried_again_until_the_deadline(closed_port: str) -> None:
    settings = KafkaSettings(bootstrap=closed_port, connect_timeout_s=1.0)
    started = time.monotonic()
    with capture_logs() as events, pytest.raises(DeliveryError) as caught:
        await check_topics(settings, ["posts", "verdicts"])
    assert 0.9 < time.monotonic() - started < 3.0
    assert closed_port in str(caught.value)
    assert "MODERATION_KAFKA__BOOTSTRAP" in str(caught.value)
    assert len(events) > 1
    assert {(event["event"], event["bootstrap"], event["cause"]) for event in events} == {
        ("broker_unreachable", closed_port, "ConnectionRefusedError")
    }


async def test_a_broker_that_does_not_answer_is_given_up_at_the_deadline() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        settings = KafkaSettings(bootstrap=f"127.0.0.1:{silent.getsockname()[1]}", connect_timeout_s=0.5)
        started = time.monotonic()
        with pytest.raises(DeliveryError, match="no response"):
            await check_topics(settings, ["posts"])
        assert time.monotonic() - started < 3.0


async def test_a_certificate_that_is_not_valid_here_is_refused_at_once(tmp_path: Path) -> None:
    credentials = Credentials(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        settings = KafkaSettings(bootstrap=f"127.0.0.1:{port}", security_protocol="SSL", connect_timeout_s=20.0)
        with pytest.raises(ConfigError, match="refused the connection: their certificate is not valid here"):
            await asyncio.wait_for(check_topics(settings, ["posts"]), 10)
        trusting = settings.model_copy(update={"ssl_ca": credentials.ca, "connect_timeout_s": 0.5})
        with pytest.raises(DeliveryError, match="could not be reached"):
            await check_topics(trusting, ["posts"])


async def test_stop_of_clients_that_never_started(closed_port: str) -> None:
    settings = KafkaSettings(bootstrap=closed_port)
    await clients.stop(clients.consumer(settings, group_id="g"))
    await clients.stop(clients.producer(settings, transactional_id="t"))


async def test_missing_certificate(tmp_path: Path) -> None:
    settings = KafkaSettings(security_protocol="SSL", ssl_ca=tmp_path / "ca.pem")
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        clients.producer(settings)


async def test_a_connection_lost_while_a_client_starts_is_no_refusal() -> None:
    """aiokafka's producer passes it on in an error of its own, which says of itself that trying again is no use."""
    attempts = []

    async def start() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise KafkaError("KafkaConnectionError()") from KafkaConnectionError()

    with capture_logs() as events:
        await clients.connected(start, KafkaSettings())
    assert len(attempts) == 2
    assert [event["cause"] for event in events] == ["KafkaConnectionError"]


async def test_a_refusal_inside_another_error_is_still_one() -> None:
    async def start() -> None:
        raise KafkaError("TransactionalIdAuthorizationFailed()") from TransactionalIdAuthorizationFailed()

    named = "refused the connection: this role's user .* lacks the right Write on transactional ids that begin with"
    with pytest.raises(ConfigError, match=named):
        await clients.connected(start, KafkaSettings())


class Unwell:
    """Its stop ends as that of a consumer that waits to fetch again."""

    async def stop(self) -> None:
        raise asyncio.CancelledError


async def test_a_stop_does_not_pass_on_a_cancellation_from_within_the_client() -> None:
    with capture_logs() as events:
        await clients.stop(Unwell())
    assert [event["event"] for event in events] == ["kafka_client_abandoned"]


async def test_cancelling_a_stop_cancels_its_caller() -> None:
    class Slow:
        async def stop(self) -> None:
            await asyncio.sleep(60)

    stopping = asyncio.create_task(clients.stop(Slow()))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
