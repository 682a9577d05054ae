"""`moderation settings`: lists the settings, with the environment variable of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from moderation import settings
from moderation.cli.options import out


def print_settings(
    every: Annotated[bool, typer.Option("--all", help="all settings, not only those of a first deployment")] = False,
) -> None:
    """List the settings that a first deployment sets. --all lists all."""
    settings.load()  # names the variables that are set and wrong
    for group, members in groupby(described(), key=lambda setting: setting.group):
        shown = [setting for setting in members if setting.basic or every]
        if shown:
            out.print(f"# {group}", style="cyan", highlight=False, markup=False)
        for setting in shown:
            out.print(f"{setting.variable}={setting.default}", style="bold", highlight=False, markup=False)
            out.print(f"    {setting.meaning}", highlight=False, markup=False)
    if not every:
        out.print("# `moderation settings --all` lists all settings", style="cyan", highlight=False, markup=False)


@dataclass(frozen=True, slots=True)
class Described:
    """One setting, as the documentation shows it."""

    variable: str
    group: str
    default: str  # "": none
    default_in_words: str  # the same on every machine
    unit: str  # "": none
    choices: tuple[str, ...]  # empty: any value of its type
    description: str
    basic: bool  # whether a first deployment sets it

    @property
    def meaning(self) -> str:
        """The description, with choices and unit."""
        choices = f" ({', '.join(self.choices)})" if self.choices else ""
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.description}{choices}{unit}"


def described() -> Iterator[Described]:
    """Every setting, group by group."""
    for variable, group, field in settings.fields():
        yield _describe(variable, group, field)


def _describe(variable: str, group: type[BaseModel], field: FieldInfo) -> Described:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    units = [mark.name for mark in field.metadata if isinstance(mark, settings.Unit)]
    default = "" if field.default in (None, (), PydanticUndefined) else str(field.default)
    return Described(
        variable=variable,
        group=(group.__doc__ or "").rstrip("."),
        default=default,
        default_in_words=str(extra.get("shown") or default),
        unit=units[0] if units else str(extra.get("unit", "")),
        choices=get_args(field.annotation) if get_origin(field.annotation) is Literal else (),
        description=field.description or "",
        basic=extra.get("tier") == "basic",
    )
