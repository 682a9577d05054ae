"""Prints verdicts on a terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moderation import types
from moderation.v1 import moderation_service_pb2 as service
from moderation.v1.verdict_pb2 import (
    MODE_SHADOW,
    STATUS_DEGRADED,
    STATUS_UNDETERMINED,
    Finding,
    Outcome,
    Problem,
    Status,
    Verdict,
)
from moderation.wire.advice import effect, place

SCORES = 3  # in a line
COLOURS = {Outcome.OUTCOME_ALLOW: "green", Outcome.OUTCOME_REVIEW: "yellow", Outcome.OUTCOME_REMOVE: "red"}


def outcome(message: Verdict | Finding) -> Text:
    """ALLOW, REVIEW or REMOVE in its colour."""
    name = Outcome.Name(message.outcome).removeprefix("OUTCOME_")
    return Text(name, style=COLOURS.get(message.outcome, "white"))


def reason(message: Verdict) -> str:
    """What decided the verdict, or why nothing did; empty if live policies were asked and none objected."""
    if message.reason:
        return message.reason
    if message.deciding_policy:
        decided = next((each for each in message.findings if each.policy_id == message.deciding_policy), Finding())
        cause = f" because of {decided.reason}" if decided.reason and not _by_score(decided) else ""
        cause += f", REMOVE held: {decided.held}" if decided.held else ""
        return f"by {message.deciding_policy}{cause}"
    if all(finding.mode == MODE_SHADOW for finding in message.findings):
        return f"no {'live ' if message.findings else ''}policy applies to this post"
    return ""


def why(message: Verdict) -> str:
    """What decided the verdict, or why nothing did; otherwise the first part that was not judged, if there is one."""
    return reason(message) or (_problem(message, message.problems[0]) if message.problems else "")


def _by_score(finding: Finding) -> bool:
    """Whether the score alone gives the outcome. Otherwise on_error or a limit does."""
    limits = finding.thresholds
    least = {Outcome.OUTCOME_REMOVE: limits.remove, Outcome.OUTCOME_REVIEW: limits.review}.get(finding.outcome, 0.0)
    return finding.HasField("probability") and finding.probability >= least


def _cause(finding: Finding, problems: Sequence[Problem]) -> str:
    """Why a finding's outcome is not its score's: on_error, or a part that was not seen. Empty: it is its score's."""
    scored = finding.HasField("probability")
    if not finding.reason or (finding.status == STATUS_DEGRADED and not scored):  # a Yes without a probability
        return ""
    silent = finding.HasField("mass") and finding.mass < finding.thresholds.mass
    if _by_score(finding) and not silent:
        return ""
    limited = finding.outcome == Outcome.OUTCOME_REVIEW and any(map(_is_limit, problems))
    return "part unseen" if limited else "on_error"


def _is_limit(problem: Problem) -> bool:
    try:
        detail = types.Detail(problem.detail) if problem.detail else None
        return types.Problem(types.Reason(problem.reason), problem.path, detail).limit
    except ValueError:  # of another version
        return False


def scores(message: Verdict) -> str:
    """The highest scores of the verdict's policies, in one line."""
    scored = [finding for finding in message.findings if finding.HasField("probability")]
    scored.sort(key=lambda finding: (-finding.probability, finding.policy_id))
    shown = [
        f"{finding.policy_id} {finding.probability:.3f}{' (shadow)' if finding.mode == MODE_SHADOW else ''}"
        for finding in scored[:SCORES]
    ]
    return ", ".join([*shown, *([f"{len(scored) - SCORES} lower"] if len(scored) > SCORES else [])])


def status(message: Verdict | Finding) -> str:
    """FINAL, DEGRADED or UNDETERMINED."""
    return Status.Name(message.status).removeprefix("STATUS_")


def verdict(
    console: Console,
    message: Verdict,
    *,
    as_json: bool = False,
    skipped: Mapping[str, str] | None = None,
    files: Sequence[str] = (),
) -> None:
    """Prints the verdict with all its findings, or its JSON.

    skipped: policies that were not asked, and why. files: names of the post's images, in their order.
    """
    if as_json:
        text = json_format.MessageToJson(message, always_print_fields_with_no_presence=True)
        console.print(text, highlight=False, markup=False)
        return
    table = Table("policy", "P(violates)", "outcome", "status", title=Text(message.post_id), title_justify="left")
    for finding in message.findings:
        probability = f"{finding.probability:.3f}" if finding.HasField("probability") else "-"
        notes = [status(finding), finding.reason]
        shown = outcome(finding)
        same = [each for each in message.problems if (each.reason, each.path) == (finding.reason, finding.path)]
        if cause := _cause(finding, same):
            shown.append(f" ({cause})")
        if finding.held:
            shown.append(" (held)")
            notes.append(f"REMOVE held: {finding.held}")
        if finding.certificate:
            notes.append(f"certificate {finding.certificate}")
        if finding.mode == MODE_SHADOW:
            notes.append(f"(shadow, does not count: would be {shown.plain})")
            shown = Text("-")
        table.add_row(finding.policy_id, probability, shown, Text(" ".join(filter(None, notes))))
    if message.findings:
        console.print(table)
    elif message.post_id:
        console.print(Text(message.post_id))
    if skipped:
        reasons = ", ".join(f"{policy} ({limit})" for policy, limit in skipped.items())
        console.print(f"not asked: {reasons}", highlight=False, markup=False)
    for problem in message.problems:
        console.print(_problem(message, problem, files), highlight=False, markup=False)
    summary = " ".join(part for part in (status(message), reason(message)) if part)
    model = message.model.name
    if message.model.alias:
        model += f", which the server calls {message.model.revision}" if message.model.revision else ", without a name"
    console.print(outcome(message), Text(f"{summary}; model {model}"))


def _problem(message: Verdict, problem: Problem, files: Sequence[str] = ()) -> str:
    judged = effect(problem.reason, problem.path, problem.detail)
    judged = "not judged" if message.status == STATUS_UNDETERMINED else judged  # nothing was
    return f"{judged}: " + ", ".join(part for part in (problem.reason, _where(problem, files)) if part)


def _where(problem: Problem, files: Sequence[str] = ()) -> str:
    """The part of a post and what is wrong there. An image of a file has the file's name."""
    image = re.match(r"images\[(\d+)\]", problem.path)
    named = image is not None and int(image[1]) < len(files)
    part = place(problem.reason, problem.path)
    if image is not None and named:
        part = part.replace(problem.path, files[int(image[1])])
    return ": ".join(said for said in (part, problem.detail) if said)


def changes(console: Console, message: service.WatchVerdictsResponse, *, as_json: bool = False) -> None:
    """Prints a line for each change of a watch, or one line of JSON for the message."""
    if as_json:
        console.print(json_format.MessageToJson(message, indent=None), highlight=False, markup=False)
        return
    for change in message.changes:
        if change.HasField("verdict"):
            line(console, change.verdict)
        else:
            console.print(Text("ERASED", style="magenta"), Text(change.post_id))


def line(console: Console, message: Verdict, *, when: bool = False, as_json: bool = False) -> None:
    """Prints a verdict as one line, or as JSON.

    The line: time, outcome, post, status, what decided, the highest scores, what was not judged.
    """
    if as_json:
        console.print(_json_line(message), highlight=False, markup=False)
        return
    decided = [Text(message.decided_at.ToJsonString(), style="dim")] if when else []
    told = " ".join(part for part in (message.post_id, status(message), reason(message)) if part)
    parts = [told, scores(message)]
    more = f" and {len(message.problems) - 1} more" if len(message.problems) > 1 else ""
    if message.problems and not message.reason:
        parts.append(f"{_problem(message, message.problems[0])}{more}")
    elif message.problems and message.problems[0].reason == message.reason:  # which the line has
        parts.append(f"{_where(message.problems[0])}{more}")
    console.print(*decided, outcome(message), Text("; ".join(part for part in parts if part)))


def _json_line(message: Message) -> str:
    return json_format.MessageToJson(message, indent=None, always_print_fields_with_no_presence=True)


def lookup(
    console: Console,
    post_id: str,
    message: service.LookupResult | service.ModeratePostResponse,
    *,
    as_json: bool = False,
) -> None:
    """Prints the verdict of a lookup, or that there is none; or one line of JSON."""
    if as_json:
        console.print(_json_line(message), highlight=False, markup=False)
    elif message.state == service.LOOKUP_STATE_FOUND:
        verdict(console, message.verdict)
    elif message.state == service.LOOKUP_STATE_PENDING:
        console.print(Text(f"{post_id}: accepted, no verdict yet; look it up later: moderation get {post_id}"))
    elif message.state == service.LOOKUP_STATE_UNREADABLE:
        console.print(Text(f"{post_id}: this version cannot read the record under this id on the verdicts topic"))
    else:
        console.print(Text(f"{post_id}: no verdict"))
