"""`moderation`: puts the commands of this folder together. Only the entry points import this.

A command reads the settings, connects the parts and hands over. Heavy imports are inside the commands.
"""

from __future__ import annotations

import typer

import moderation
from moderation import lifecycle
from moderation.bench import commands as bench
from moderation.cli import classify, dev, health, model, policies, roles, settings, top, verdicts

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=moderation.__doc__)

for command in (
    roles.worker,
    roles.api,
    health.health,
    classify.classify,
    verdicts.submit,
    verdicts.get,
    verdicts.watch,
    dev.demo,
    top.top,
):
    app.command()(command)
app.command(name="settings")(settings.print_settings)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(moderation.__version__)


app.add_typer(policies.app, name="policies")
app.add_typer(model.app, name="model")
app.add_typer(dev.app, name="dev")
app.add_typer(bench.app, name="bench")


def main() -> None:
    """Runs a command. An error of the service ends it with one clear message and the error's exit code."""
    lifecycle.command(lambda: app(standalone_mode=True))
