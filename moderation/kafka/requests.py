"""What our own requests share: those that aiokafka lacks."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request


class Uuid(AbstractType[bytes]):  # type: ignore[misc]
    """A UUID, as its 16 bytes."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


async def response_to(client: AIOKafkaClient, node: int, request: Request[Any]) -> Any | None:
    """Sends a request to a broker. Returns the response; None: the broker is too old for it. Raises KafkaError."""
    try:
        return await client.send(node, request)
    except (IncompatibleBrokerVersion, NotImplementedError):
        return None
