"""Prints verdicts on a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf import json_format
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moderation.v1 import moderation_service_pb2 as service
from moderation.v1.verdict_pb2 import MODE_SHADOW, Finding, Outcome, Status, Verdict

COLOURS = {Outcome.OUTCOME_ALLOW: "green", Outcome.OUTCOME_REVIEW: "yellow", Outcome.OUTCOME_REMOVE: "red"}


def outcome(message: Verdict | Finding) -> Text:
    """ALLOW, REVIEW or REMOVE in its colour."""
    name = Outcome.Name(message.outcome).removeprefix("OUTCOME_")
    return Text(name, style=COLOURS.get(message.outcome, "white"))


def status(message: Verdict | Finding) -> str:
    """FINAL, DEGRADED or UNDETERMINED."""
    return Status.Name(message.status).removeprefix("STATUS_")


def verdict(
    console: Console, message: Verdict, *, as_json: bool = False, skipped: Mapping[str, str] | None = None
) -> None:
    """Prints the verdict with all its findings, or its JSON. `skipped`: policies that were not asked, and why."""
    if as_json:
        text = json_format.MessageToJson(message, always_print_fields_with_no_presence=True)
        console.print(text, highlight=False, markup=False)
        return
    table = Table("policy", "P(violates)", "outcome", "status", title=Text(message.post_id), title_justify="left")
    for finding in message.findings:
        probability = f"{finding.probability:.3f}" if finding.HasField("probability") else "-"
        notes = (status(finding), finding.reason, "(shadow: does not count)" if finding.mode == MODE_SHADOW else "")
        table.add_row(finding.policy_id, probability, outcome(finding), " ".join(filter(None, notes)))
    if message.findings:
        console.print(table)
    if skipped:
        reasons = ", ".join(f"{policy} ({limit})" for policy, limit in skipped.items())
        console.print(f"not asked: {reasons}", highlight=False, markup=False)
    why = message.reason or (message.deciding_policy and f"by {message.deciding_policy}")
    if not why and all(finding.mode == MODE_SHADOW for finding in message.findings):
        why = f"no {'live ' if message.findings else ''}policy applies to this post"
    summary = " ".join(part for part in (status(message), why) if part)
    model = message.model.name
    if message.model.alias:
        model += f", which the server calls {message.model.revision}" if message.model.revision else ", without a name"
    console.print(outcome(message), Text(f"{summary}; model {model}"))


def changes(console: Console, message: service.WatchVerdictsResponse, *, as_json: bool = False) -> None:
    """Prints a line for each change of a watch, or one line of JSON for the message."""
    if as_json:
        console.print(json_format.MessageToJson(message, indent=None), highlight=False, markup=False)
        return
    for change in message.changes:
        if change.HasField("verdict"):
            why = change.verdict.reason or change.verdict.deciding_policy
            console.print(outcome(change.verdict), Text(f"{change.post_id} {status(change.verdict)} {why}"))
        else:
            console.print(Text("ERASED", style="magenta"), Text(change.post_id))


def lookup(
    console: Console,
    post_id: str,
    message: service.LookupResult | service.ModeratePostResponse,
    *,
    as_json: bool = False,
) -> None:
    """Prints the verdict of a lookup, or that there is none; or one line of JSON."""
    if as_json:
        line = json_format.MessageToJson(message, indent=None, always_print_fields_with_no_presence=True)
        console.print(line, highlight=False, markup=False)
    elif message.state == service.LOOKUP_STATE_FOUND:
        verdict(console, message.verdict)
    elif message.state == service.LOOKUP_STATE_PENDING:
        console.print(Text(f"{post_id}: accepted, no verdict yet; look it up later: moderation get {post_id}"))
    else:
        console.print(Text(f"{post_id}: no verdict"))
