"""`moderation policies ...`: a file for each command, or for a few that belong together."""

from __future__ import annotations

import typer

from moderation.cli.policies import attack, check, history, label, live, sample, test

app = typer.Typer(no_args_is_help=True, help="Write, check, test, certify and compare policies; show what is in use.")
app.command("check")(check.check)
app.command("show")(check.show)
app.command("schema")(check.schema)
app.command("test")(test.measure)
app.command("attack")(attack.attack)
app.command("sample")(sample.sample)
app.command("label")(label.label)
app.command("live")(live.live)
app.command("history")(history.history)
