"""Headers of Kafka records, and the two formats of values that they name: JSON and Protobuf."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from moderation.types import Detail

Headers = Iterable[tuple[str, bytes | None]]  # as in Kafka: a name may repeat, a value may be null
Format = Literal["json", "protobuf"]

CONTENT_TYPES: dict[Format, bytes] = {"json": b"application/json", "protobuf": b"application/x-protobuf"}
READ: dict[str, Format] = {
    "application/json": "json",
    "application/x-protobuf": "protobuf",
    "application/protobuf": "protobuf",
}


def format_of(headers: Headers) -> Format | None:
    """The format of a value. Without a content type: JSON. With several, or an unknown one: None."""
    format = named_format(headers)
    return None if isinstance(format, Detail) else format or "json"


def named_format(headers: Headers) -> Format | Detail | None:
    """The format that the content type names; None: there is no content type. A Detail: why it names no format."""
    content_types = {value or b"" for name, value in headers if name.lower() == "content-type"}
    if not content_types:
        return None
    if len(content_types) > 1:
        return Detail.GIVEN_TWICE
    name, *parameters = (part.strip().lower() for part in content_types.pop().decode("latin-1").split(";"))
    format = READ.get(name)
    if format == "json":
        utf8 = all(parameter in ("charset=utf-8", 'charset="utf-8"') for parameter in parameters)
        return format if utf8 else Detail.CHARSET
    return format if format and not parameters else Detail.OTHER_FORMAT
