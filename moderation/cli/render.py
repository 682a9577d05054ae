"""Verdicts on a terminal."""

from __future__ import annotations

from google.protobuf import json_format
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moderation.v1 import moderation_service_pb2 as service
from moderation.v1.verdict_pb2 import Finding, Outcome, Status, Verdict

COLOURS = {Outcome.OUTCOME_ALLOW: "green", Outcome.OUTCOME_REVIEW: "yellow", Outcome.OUTCOME_REMOVE: "red"}


def outcome(of: Verdict | Finding) -> Text:
    """ALLOW, REVIEW or REMOVE in its colour."""
    name = Outcome.Name(of.outcome).removeprefix("OUTCOME_")
    return Text(name, style=COLOURS.get(of.outcome, "white"))


def status(of: Verdict | Finding) -> str:
    """FINAL, DEGRADED or UNDETERMINED."""
    return Status.Name(of.status).removeprefix("STATUS_")


def verdict(console: Console, of: Verdict, *, as_json: bool = False) -> None:
    """The verdict with all its findings, or its JSON."""
    if as_json:
        whole = json_format.MessageToJson(of, always_print_fields_with_no_presence=True)
        console.print(whole, highlight=False, markup=False)
        return
    table = Table("policy", "P(violates)", "outcome", "status", title=Text(of.post_id), title_justify="left")
    for finding in of.findings:
        probability = f"{finding.probability:.3f}" if finding.HasField("probability") else "-"
        table.add_row(finding.policy_id, probability, outcome(finding), f"{status(finding)} {finding.reason}")
    if of.findings:
        console.print(table)
    why = of.reason or (of.deciding_policy and f"by {of.deciding_policy}")
    console.print(outcome(of), Text(" ".join(part for part in (status(of), why) if part) + f"; model {of.model.name}"))


def changes(console: Console, of: service.WatchVerdictsResponse, *, as_json: bool = False) -> None:
    """What has changed, a line for each; as JSON the whole message is one."""
    if as_json:
        console.print(json_format.MessageToJson(of, indent=None), highlight=False, markup=False)
        return
    for change in of.changes:
        if change.HasField("verdict"):
            why = change.verdict.reason or change.verdict.deciding_policy
            console.print(outcome(change.verdict), Text(f"{change.post_id} {status(change.verdict)} {why}"))
        else:
            console.print(Text("ERASED", style="magenta"), Text(change.post_id))


def answer(
    console: Console, post_id: str, of: service.LookupResult | service.ModeratePostResponse, *, as_json: bool = False
) -> None:
    """What a lookup says: the verdict, or that there is none."""
    if as_json:
        line = json_format.MessageToJson(of, indent=None, always_print_fields_with_no_presence=True)
        console.print(line, highlight=False, markup=False)
    elif of.state == service.LOOKUP_STATE_FOUND:
        verdict(console, of.verdict)
    elif of.state == service.LOOKUP_STATE_PENDING:
        console.print(Text(f"{post_id}: accepted, not judged yet; look it up later: moderation get {post_id}"))
    else:
        console.print(Text(f"{post_id}: no verdict"))
