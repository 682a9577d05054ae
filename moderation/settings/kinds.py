"""What a setting is made of: its type with a unit, its tier, its group."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


@dataclass(frozen=True, slots=True)
class Unit:
    """Unit of a setting, as its documentation prints it."""

    name: str


def basic(default: Any, description: str, *, unit: str = "", **limits: Any) -> Any:
    """A setting that a first deployment sets. `moderation settings` lists it."""
    return Field(default, description=description, json_schema_extra={"unit": unit, "tier": "basic"}, **limits)


def advanced(default: Any, description: str, *, unit: str = "", shown: str = "", **limits: Any) -> Any:
    """Any other setting. `shown`: the default in words, if it depends on the machine."""
    extra: dict[str, Any] = {"unit": unit, "tier": "advanced", "shown": shown}
    return Field(default, description=description, json_schema_extra=extra, **limits)


def utf8(given: str) -> str:
    """Text from the command line or the environment, read as UTF-8. Raises UnicodeDecodeError.

    Bytes that the locale's encoding does not have are lone surrogates in `given`.
    """
    try:
        given.encode()
    except UnicodeEncodeError:
        return os.fsencode(given).decode()
    return given


def _split_paths(value: object) -> object:
    return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value


def _split_names(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_split_paths)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split_names)]
Name = Annotated[str, Field(min_length=1)]
Security = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Posts = Annotated[int, Field(ge=1), Unit("posts")]
Calls = Annotated[int, Field(ge=1), Unit("calls")]
CallRate = Annotated[float, Field(ge=0), Unit("calls per second")]
Ratio = Annotated[float, Field(ge=0, le=1), Unit("ratio, 0 to 1")]
Money = Annotated[float, Field(ge=0), Unit("money, in the currency of the prices")]
Price = Annotated[float, Field(ge=0), Unit("money per million tokens")]
Bytes = Annotated[int, Field(ge=1), Unit("bytes")]
BytesOrZero = Annotated[int, Field(ge=0), Unit("bytes")]
Pixels = Annotated[int, Field(ge=1), Unit("pixels")]
Seconds = Annotated[float, Field(gt=0), Unit("seconds")]
SecondsOrZero = Annotated[float, Field(ge=0), Unit("seconds")]
Milliseconds = Annotated[int, Field(ge=1_000), Unit("milliseconds")]


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
