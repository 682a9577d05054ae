"""Settings of Kafka."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import SecretStr, model_validator

from moderation.settings.kinds import Bytes, Group, Milliseconds, Name, Seconds, Security, advanced, basic


class KafkaSettings(Group):
    """Kafka: brokers, topics, delivery."""

    bootstrap: str = basic("localhost:9092", "host:port of one or more brokers, separated by commas")
    posts_topic: Name = basic("posts", "topic that posts are read from")
    verdicts_topic: Name = basic("verdicts", "topic that verdicts are written to; needs as many partitions as posts")
    dead_letter_topic: str = advanced(
        "", "topic for records of which a part was refused or not had; default: `<posts>.<group>.dlq`"
    )
    group: Name = advanced("moderation", "consumer group, and prefix of the transactional ids")
    delivery: Literal["exactly_once", "at_least_once"] = advanced(
        "exactly_once", "at_least_once is for brokers without transactions: a crash may repeat verdicts"
    )
    copy_erasures: bool = advanced(
        True, "copy each erasure to all partitions of the posts topic; off only where every key is placed by murmur2"
    )
    verdict_format: Literal["json", "protobuf"] = advanced("json", "format of the verdicts on their topic")
    schema_registry: bool = advanced(
        False, "whether values on the posts topic may begin with the prefix of a schema registry: a zero byte, an id"
    )
    connect_timeout_s: Seconds = advanced(60.0, "a starting process tries to reach the brokers for this long")
    transaction_timeout_ms: Milliseconds = advanced(30_000, "the broker aborts an open transaction after this time")
    session_timeout_ms: Milliseconds = advanced(10_000, "the group removes a silent worker after this time")
    rebalance_timeout_ms: Milliseconds = advanced(120_000, "a worker may drain for this long in a rebalance")
    max_message_bytes: Bytes = advanced(20 << 20, "largest record to read or write, and limit of the topics", ge=1024)
    max_dead_letter_bytes: Bytes = advanced(1 << 20, "largest part of a record that its dead letter keeps", ge=1024)
    security_protocol: Security = basic("PLAINTEXT", "security protocol of the brokers")
    ssl_ca: Path | None = advanced(None, "PEM file of the CA that signed the brokers' certificates")
    ssl_certificate: Path | None = advanced(None, "PEM file of the client certificate, for mTLS")
    ssl_key: Path | None = advanced(None, "PEM file of the client key, for mTLS")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = advanced("SCRAM-SHA-512", "SASL mechanism")
    sasl_username: str = advanced("", "user name for SASL")
    sasl_password: SecretStr = advanced(SecretStr(""), "password for SASL")

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        if len({self.posts_topic, self.verdicts_topic, self.dead_letters}) < 3:
            raise ValueError("posts_topic, verdicts_topic and dead_letter_topic must be three different topics")
        return self

    @property
    def dead_letters(self) -> str:
        """Name of the dead-letter topic."""
        return self.dead_letter_topic or f"{self.posts_topic}.{self.group}.dlq"
