"""`moderation`: puts the commands of this folder together. Only the entry points import this.

A command reads the settings, connects the parts and hands over. Heavy imports are inside the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import typer
from typer.main import get_command

import moderation
from moderation import lifecycle
from moderation.bench import commands as bench
from moderation.cli import archive, classify, dev, dlq, explain, health, model, policies, roles, settings, top, verdicts
from moderation.errors import ConfigError
from moderation.settings import utf8

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=moderation.__doc__)

for command in (
    roles.worker,
    roles.api,
    health.health,
    classify.classify,
    explain.explain,
    verdicts.submit,
    verdicts.get,
    verdicts.watch,
    archive.archive,
    dev.demo,
    top.top,
):
    app.command()(command)
app.command(name="list")(verdicts.latest)
app.command(name="settings")(settings.print_settings)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(moderation.__version__)


app.add_typer(policies.app, name="policies")
app.add_typer(model.app, name="model")
app.add_typer(dlq.app, name="dlq")
app.add_typer(dev.app, name="dev")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Runs a command. An error of the service ends it with one clear message and the error's exit code."""
    lifecycle.command(_run)


def _run() -> None:
    _unicode(get_command(app))()


def _unicode(command: Any) -> Any:
    """The command, and those below it, with texts of Unicode alone as arguments. Names of files may be any bytes."""
    for below in getattr(command, "commands", {}).values():
        _unicode(below)
    if (call := command.callback) is not None:
        command.callback = _with_texts(call, {parameter.name: parameter.opts[0] for parameter in command.params})
    return command


def _with_texts(call: Callable[..., object], options: Mapping[str, str]) -> Callable[..., object]:
    """`options`: by name of a parameter, as a user writes it."""

    @wraps(call)
    def checked(**given: Any) -> object:
        return call(**{name: _text(options[name], value) for name, value in given.items()})

    return checked


def _text(option: str, value: Any) -> Any:
    """What an option was given, with the bytes of a text read as UTF-8. Raises ConfigError."""
    if isinstance(value, list | tuple):
        return type(value)(_text(option, member) for member in value)
    try:
        return utf8(value) if isinstance(value, str) else value
    except UnicodeDecodeError:
        raise ConfigError(f"{option}: its bytes are not UTF-8; write it in UTF-8") from None
