"""Reads Protobuf messages from JSON, several times faster than google.protobuf.json_format.

Views read thousands of verdicts a second. This module reads JSON as json_out.py writes it. JSON in any other shape
raises ValueError; the caller then asks json_format. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_TIME_CHARS = len("2026-01-01T00:00:00.000000Z")  # datetime has microseconds
LONG = (FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64)  # strings in JSON

# By a field's name in JSON: its name in Python, and the conversion of its value.
Fields = dict[str, tuple[str, Callable[[Any], Any] | None]]
M = TypeVar("M", bound=Message)

_known: dict[str, Fields] = {}


def parse(value: bytes, message: type[M]) -> M:
    """The message; members that are no field of it are ignored. Raises ValueError."""
    try:
        fields = _fields(message.DESCRIPTOR)  # type: ignore[arg-type]  # one of two classes, by the runtime
        return message(**_translated(orjson.loads(value), fields))
    except (TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError("not in the shape that json_out writes") from error


def _translated(members: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """The keyword arguments of a message's constructor."""
    arguments = {}
    for name, value in members.items():
        field = fields.get(name)
        if field is not None and value is not None:
            python_name, convert = field
            arguments[python_name] = value if convert is None else convert(value)
    return arguments


def _fields(message: Descriptor) -> Fields:
    if message.full_name not in _known:
        fields = _known[message.full_name] = {}
        for field in message.fields:
            fields[field.json_name] = fields[field.name] = (field.name, _conversion(field))
    return _known[message.full_name]


def _conversion(field: FieldDescriptor) -> Callable[[Any], Any] | None:
    if field.message_type is None:
        return int if field.type in LONG else None
    if field.message_type.full_name == Timestamp.DESCRIPTOR.full_name:
        return _timestamp
    fields = _fields(field.message_type)
    if field.is_repeated:
        return lambda values: [_translated(value, fields) for value in _list(values)]
    return lambda value: _translated(value, fields)


def _list(values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise TypeError
    return values


def _timestamp(text: str) -> Timestamp:
    if len(text) > MAX_TIME_CHARS:
        raise ValueError("more digits than json_out writes")
    since = datetime.fromisoformat(text) - EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)
