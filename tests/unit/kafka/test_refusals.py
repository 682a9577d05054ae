"""Which refusal explains an error, and what an operator reads. The responses are aiokafka's own."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    CorruptRecordException,
    IllegalGenerationError,
    KafkaError,
    KafkaStorageError,
    KafkaTimeoutError,
    NotEnoughReplicasError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.fetch import FetchResponse_v4
from aiokafka.protocol.produce import ProduceResponse_v7
from aiokafka.protocol.transaction import AddPartitionsToTxnResponse_v0, TxnOffsetCommitResponse_v0
from structlog.testing import capture_logs

from moderation.errors import ConfigError, DeliveryError
from moderation.kafka import refusals
from moderation.kafka.consumer import UnreadableError
from moderation.kafka.refusals import Refusals
from moderation.settings import KafkaSettings

SETTINGS = KafkaSettings()
READ = TopicAuthorizationFailedError.errno
NOT_ATTEMPTED, FENCED, STORAGE = 55, 90, KafkaStorageError.errno


def a_client(*responses: Any, hidden: str = "") -> Any:
    """A client that has had these responses."""
    known = Refusals(SimpleNamespace(cluster=SimpleNamespace(unauthorized_topics={hidden} - {""})))
    for response in responses:
        known.note(response)
    return SimpleNamespace(refusals=known)


def produced(topic: str, code: int, throttle_ms: int = 0) -> Any:
    return ProduceResponse_v7([(topic, [(0, code, 0, 0, 0)])], throttle_ms)


def committed(topic: str, code: int) -> Any:
    return TxnOffsetCommitResponse_v0(0, [(topic, [(0, code)])])


def fetched(topic: str, code: int) -> Any:
    return FetchResponse_v4(0, [(topic, [(0, code, 0, 0, [], b"")])])


def said(error: BaseException, *clients: Any, settings: KafkaSettings = SETTINGS) -> str:
    return str(refusals.failure(settings, "it", error, *clients))


def test_an_error_of_a_transaction_names_the_topic_that_refused_and_not_the_ones_that_were_not_tried() -> None:
    added = AddPartitionsToTxnResponse_v0(0, [("verdicts", [(0, NOT_ATTEMPTED)]), ("dead", [(0, READ)])])
    error = KafkaError("Unexpected error during batch delivery")
    error.__cause__ = TopicAuthorizationFailedError()
    for client in (a_client(added), a_client(added, produced("verdicts", 48))):
        assert said(error, client).startswith("it: this role's user (NAME below) lacks the right Write on topic dead.")
    assert "lacks the right Read on topic posts" in said(error, a_client(committed("posts", READ)))


def test_an_error_of_a_client_that_is_not_given_names_its_topic_and_right() -> None:
    assert "lacks the right Read on topic verdicts" in said(TopicAuthorizationFailedError("verdicts"))
    place = TopicPartition("verdicts", 1)  # as where a topic's ends are asked for
    assert "lacks the right Describe on topic verdicts" in said(TopicAuthorizationFailedError(place))


def test_a_refusal_that_was_granted_since_explains_nothing() -> None:
    client = a_client(produced("verdicts", READ), produced("verdicts", 0))
    assert said(KafkaTimeoutError(), client) == "it: KafkaTimeoutError"


def test_a_deadline_is_explained_by_what_was_refused_until_then() -> None:
    code = NotEnoughReplicasError.errno
    assert said(TimeoutError(), a_client(produced("verdicts", code))) == (
        "it: NotEnoughReplicasError: topic verdicts has fewer replicas in sync than its min.insync.replicas: "
        "repair the brokers"
    )
    assert "topic posts: its disk is full or has failed" in said(TimeoutError(), a_client(fetched("posts", STORAGE)))
    assert "lacks the right Describe on topic verdicts" in said(TimeoutError(), a_client(hidden="verdicts"))
    slow = said(TimeoutError(), a_client(produced("verdicts", 0, throttle_ms=4000)))
    assert slow == "it: TimeoutError: a quota of the brokers holds this client up (4.0 s at a time)"


def test_codes_that_the_client_does_not_know_have_their_names() -> None:
    error = refusals.failure(SETTINGS, "it", KafkaError("Unexpected"), a_client(produced("verdicts", FENCED)))
    assert isinstance(error, DeliveryError)
    assert str(error).startswith("it: ProducerFenced: another producer uses the transactional id moderation-posts-*")
    assert said(KafkaError("Unexpected"), a_client(produced("verdicts", 116))) == "it: KafkaError"


def test_an_error_without_a_meaning_keeps_its_name_and_its_cause() -> None:
    error = CommitFailedError()
    error.__cause__ = IllegalGenerationError()
    assert said(error) == "it: CommitFailedError, after IllegalGenerationError"


def test_a_broken_batch_keeps_its_words() -> None:
    error = UnreadableError(TopicPartition("verdicts", 0), 5, 6, "the checksum of a batch is wrong")
    error.__cause__ = CorruptRecordException()
    assert said(error) == "it: verdicts/0 cannot be read at offset 5: the checksum of a batch is wrong"


def test_a_connection_that_is_refused_while_running_is_named() -> None:
    client = a_client()
    client.refusals.unreachable = SaslAuthenticationFailed()
    settings = KafkaSettings(security_protocol="SASL_SSL", sasl_username="worker")
    assert said(TimeoutError(), client, settings=settings) == (
        "it: TimeoutError: a broker refuses new connections: they refuse the login of worker: "
        "see MODERATION_KAFKA__SASL_*"
    )
    client.refusals.unreachable = ConnectionRefusedError()
    assert said(TimeoutError(), client) == "it: TimeoutError: a broker does not respond (ConnectionRefusedError)"


def test_brokers_that_have_gone_away_are_named_and_not_what_they_refused_before() -> None:
    client = a_client(produced("verdicts", NotEnoughReplicasError.errno))
    client.refusals.unreachable = ConnectionRefusedError()
    assert said(TimeoutError(), client) == "it: TimeoutError: a broker does not respond (ConnectionRefusedError)"
    assert "fewer replicas in sync" in said(NotEnoughReplicasError(), client)
    denied = a_client(produced("verdicts", READ))
    denied.refusals.unreachable = ConnectionRefusedError()
    assert "lacks the right Write on topic verdicts" in said(TimeoutError(), denied)


@pytest.mark.parametrize(
    ("reason", "setting"),
    [
        ("WRONG_VERSION_NUMBER", "SECURITY_PROTOCOL"),
        ("TLSV1_ALERT_UNKNOWN_CA", "SSL_CERTIFICATE"),
        ("UNEXPECTED_EOF_WHILE_READING", ""),
    ],
)
def test_a_tls_error_is_for_good_unless_the_connection_was_cut(reason: str, setting: str) -> None:
    error = ssl.SSLError(1, "text")
    error.reason = reason
    text = refusals.for_good(SETTINGS, error)
    assert text.endswith(f"see MODERATION_KAFKA__{setting}") if setting else not text


def test_commands_say_how_to_log_in_where_brokers_ask_for_it() -> None:
    settings = KafkaSettings(security_protocol="SASL_PLAINTEXT", sasl_username="the worker")
    error = refusals.failure(settings, "it", KafkaError(), a_client(produced("verdicts", READ)))
    assert isinstance(error, ConfigError)
    assert error.commands == (
        "kafka-acls.sh --bootstrap-server localhost:9092 --command-config admin.properties --add "
        "--allow-principal 'User:the worker' --operation Write --topic verdicts",
    )
    assert "--command-config" not in said(KafkaError(), a_client(produced("verdicts", READ)))


def test_what_is_refused_for_long_is_logged_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    client = a_client()
    with capture_logs() as events:
        for now in (1000.0, 1009.0, 1011.0, 1012.0, 1072.0):  # noqa: B007
            client.refusals.note(fetched("posts", STORAGE))
        client.refusals.note(fetched("posts", 0))
        client.refusals.note(fetched("posts", STORAGE))
    assert [(event["error"], event["topic"], event["seconds"]) for event in events] == [
        ("KafkaStorageError", "posts", 11),
        ("KafkaStorageError", "posts", 72),
    ]
