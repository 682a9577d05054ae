"""All settings, and the only reader of the environment: MODERATION_<GROUP>__<NAME>, as MODERATION_KAFKA__BOOTSTRAP.

MODERATION_MODEL is short for MODERATION_MODEL__NAME. A variable with the prefix that names no setting is an error, so
that a misspelt limit cannot leave its default in force.

Each setting is `basic` or `advanced`: a first deployment sets the basic ones. Its type or `unit` names its unit.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ValidationError, model_validator
from pydantic.fields import FieldInfo

from moderation.errors import ConfigError
from moderation.settings.api import ASYMMETRIC, ApiSettings, AuthSettings, ClientSettings
from moderation.settings.kafka import KafkaSettings
from moderation.settings.kinds import Group, Unit, basic, utf8
from moderation.settings.model import ModelSettings
from moderation.settings.operations import LogSettings, OpsSettings, TracesSettings
from moderation.settings.stores import StoreSettings
from moderation.settings.worker import MediaSettings, WorkerSettings

__all__ = [
    "ASYMMETRIC",
    "ApiSettings",
    "AuthSettings",
    "ClientSettings",
    "KafkaSettings",
    "LogSettings",
    "MediaSettings",
    "ModelSettings",
    "OpsSettings",
    "Settings",
    "StoreSettings",
    "TracesSettings",
    "Unit",
    "WorkerSettings",
    "fields",
    "load",
    "load_log",
    "utf8",
]

STATE = Path("~/.local/state/moderation")
PREFIX = "MODERATION_"
TEST_PREFIX = "MODERATION_TEST_"  # variables that only the tests read


class Settings(Group):
    """General."""

    policies: Path = basic(Path("policies"), "folder of the policy set")
    kafka: KafkaSettings = KafkaSettings()
    model: ModelSettings = ModelSettings()
    media: MediaSettings = MediaSettings()
    worker: WorkerSettings = WorkerSettings()
    api: ApiSettings = ApiSettings()
    auth: AuthSettings = AuthSettings()
    client: ClientSettings = ClientSettings()
    ops: OpsSettings = OpsSettings()
    traces: TracesSettings = TracesSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _post_timeout_is_longest(self) -> Self:
        steps = self.worker.step_timeout_s, self.worker.encode_timeout_s, 2 * self.media.timeout_s
        if self.worker.post_timeout_s <= sum(steps):
            raise ValueError(
                f"{PREFIX}WORKER__POST_TIMEOUT_S must be longer than {sum(steps):g} s, the sum of the deadlines of a "
                "post (step_timeout_s, encode_timeout_s, twice media.timeout_s): else a worker exits while it waits"
            )
        return self

    @property
    def view_file(self) -> Path:
        """The SQLite file of the view. Two deployments on one machine have two, unless the setting names one."""
        if self.api.view:
            return self.api.view
        topic = f"{self.kafka.bootstrap}\0{self.kafka.verdicts_topic}"
        return STATE / f"verdicts-{hashlib.sha256(topic.encode()).hexdigest()[:12]}.sqlite"


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process. Raises ConfigError naming each variable that is wrong, never its value."""
    values: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable.startswith(TEST_PREFIX):
            continue
        try:
            variable, value = utf8(variable), utf8(value)  # noqa: PLW2901
        except UnicodeDecodeError:
            if variable not in _paths():  # a file's name may be any bytes
                raise ConfigError(f"{variable}: its bytes are not UTF-8; write it in UTF-8") from None
        path = variable.removeprefix(PREFIX).lower().split("__")
        if path == ["model"]:
            path = ["model", "name"]
        group = values
        for name in path[:-1]:
            group = group.setdefault(name, {})
            if not isinstance(group, dict):
                raise ConfigError(f"{variable}: {PREFIX}{'__'.join(path[:-1]).upper()} is one value, not a group")
        if path[-1] in group:
            raise ConfigError(f"{variable} is set twice, under two names: keep one of them")
        group[path[-1]] = value
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error))) from None


def load_log(environment: Mapping[str, str] = os.environ) -> LogSettings:
    """The format of the log alone. It is known before all other settings are, so that their errors have it."""
    variable = f"{PREFIX}LOG__FORMAT"
    try:
        return load({name: value for name, value in environment.items() if name == variable}).log
    except ConfigError:
        return LogSettings()


def fields() -> Iterator[tuple[str, type[BaseModel], FieldInfo]]:
    """(variable, group, field) of every setting, group by group. NAME stands for a name that the operator chooses."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, Group):
            group = type(field.default)
            leaves = group.model_fields.items()
            yield from ((f"{PREFIX}{name}__{leaf}".upper(), group, inner) for leaf, inner in leaves if leaf != "stores")
            if group is MediaSettings:
                for leaf, inner in StoreSettings.model_fields.items():
                    yield f"{PREFIX}MEDIA__STORES__NAME__{leaf}".upper(), StoreSettings, inner
        else:
            yield f"{PREFIX}{name}".upper(), Settings, field


def _paths() -> set[str]:
    """The variables that name files or folders."""
    return {name for name, _, field in fields() if Path in (field.annotation, *get_args(field.annotation))}


def _explain(error: ValidationError) -> Iterator[str]:
    names = ["MODEL", *(variable.removeprefix(PREFIX) for variable, _, _ in fields())]  # all have the prefix
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        variable = PREFIX + "__".join(str(part) for part in problem["loc"]).upper()
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            close = difflib.get_close_matches(variable.removeprefix(PREFIX), names, n=1)
            hint = f"did you mean {PREFIX}{close[0]}?" if close else "`moderation settings --all` lists all settings"
            yield f"{variable}: there is no such setting; {hint}"
        elif not problem["loc"]:  # a rule over several groups: its message names the variable
            yield message
        else:
            yield f"{variable}: {message}"
