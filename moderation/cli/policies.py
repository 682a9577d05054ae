"""`moderation policies ...`: check a policy set before it judges."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from moderation import settings
from moderation.cli.options import out

app = typer.Typer(no_args_is_help=True, help="Check policies before they judge.")


@app.command()
def check(
    folder: Annotated[Path | None, typer.Argument(help="folder of the policy set; default MODERATION_POLICIES")] = None,
) -> None:
    """Validate a policy set. Each mistake is printed with its file, line and key; the exit code is then not 0."""
    from moderation.policies import PolicySet

    policy_set = PolicySet.load(folder or settings.load().policies)
    table = Table("policy", "version", "status", "severity", "review", "remove", "on error")
    for policy in policy_set.policies:
        thresholds = f"{policy.thresholds.review:.2f}", f"{policy.thresholds.remove:.2f}"
        table.add_row(policy.id, str(policy.version), policy.status, policy.severity, *thresholds, policy.on_error)
    out.print(table)
    count = len(policy_set.policies)
    out.print(f"{count} {'policy' if count == 1 else 'policies'}, digest {policy_set.digest}", highlight=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a policy file, for editors."""
    from moderation.policies import json_schema

    typer.echo(json_schema(), nl=False)
