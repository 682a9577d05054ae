"""What a person reads of a verdict on a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from rich.console import Console

from moderation.cli import render
from moderation.cli.options import out
from moderation.v1.moderation_service_pb2 import (
    LOOKUP_STATE_NOT_FOUND,
    LOOKUP_STATE_UNREADABLE,
    Erasure,
    LookupResult,
    WatchVerdictsResponse,
)
from moderation.v1.verdict_pb2 import (
    MODE_SHADOW,
    ORIGIN_NONE,
    OUTCOME_ALLOW,
    OUTCOME_REMOVE,
    OUTCOME_REVIEW,
    STATUS_DEGRADED,
    STATUS_FINAL,
    STATUS_UNDETERMINED,
    Finding,
    Outcome,
    Verdict,
)


def shown(message: Verdict, skipped: dict[str, str] | None = None, files: Sequence[str] = ()) -> list[str]:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        render.verdict(console, message, skipped=skipped, files=files)
    return captured.get().splitlines()


def test_an_id_is_printed_as_it_is() -> None:
    with out.capture() as captured:
        render.verdict(out, Verdict(post_id=":fire:[red]"), as_json=True)
        render.line(out, Verdict(post_id=":fire:[red]"))
    assert captured.get().count(":fire:[red]") == 2


def test_a_verdict_without_findings_says_that_no_policy_applies() -> None:
    message = Verdict(outcome=OUTCOME_ALLOW, status=STATUS_FINAL, origin=ORIGIN_NONE)
    skipped = {"german": "languages: de", "profiles": "surfaces: profile"}
    assert shown(message, skipped=skipped) == [
        "not asked: german (languages: de), profiles (surfaces: profile)",
        "ALLOW FINAL no policy applies to this post; model ",
    ]


def test_why_names_a_part_that_was_not_judged_where_nothing_else_decided() -> None:
    message = Verdict(outcome=OUTCOME_ALLOW, status=STATUS_FINAL, findings=[Finding(policy_id="texts")])
    assert render.why(message) == ""
    message.problems.add(reason="IMAGE_CORRUPT", path="images[0]")
    assert render.why(message) == "judged in part at most: IMAGE_CORRUPT, images[0]"
    message.deciding_policy = "texts"
    assert render.why(message) == "by texts"


def test_a_post_that_could_not_be_judged_has_its_reason() -> None:
    message = Verdict(outcome=OUTCOME_ALLOW, status=STATUS_UNDETERMINED, origin=ORIGIN_NONE, reason="IMAGE_CORRUPT")
    assert shown(message) == ["ALLOW UNDETERMINED IMAGE_CORRUPT; model "]


def test_a_finding_of_a_shadow_policy_is_marked() -> None:
    findings = [
        Finding(policy_id="tried", probability=1.0, outcome=OUTCOME_REMOVE, status=STATUS_FINAL, mode=MODE_SHADOW),
        Finding(policy_id="live", probability=0.0, outcome=OUTCOME_ALLOW, status=STATUS_FINAL),
    ]
    lines = shown(Verdict(outcome=OUTCOME_ALLOW, status=STATUS_FINAL, findings=findings))
    (tried,) = [line for line in lines if "tried" in line]
    (live,) = [line for line in lines if "live" in line]
    assert "FINAL (shadow, does not count: would be REMOVE)" in tried
    assert tried.split("│")[3].strip() == "-", "it must not look like a removal"
    assert "shadow" not in live
    assert lines[-1] == "ALLOW FINAL; model "
    assert shown(Verdict(outcome=OUTCOME_ALLOW, status=STATUS_FINAL, findings=findings[:1]))[-1] == (
        "ALLOW FINAL no live policy applies to this post; model "
    )


def lines(*messages: Verdict | str) -> list[str]:
    """As a watch prints them; a string is the id of a post whose verdict was erased."""
    console = Console(width=160, file=io.StringIO())
    response = WatchVerdictsResponse()
    for message in messages:
        if isinstance(message, str):
            response.changes.add(post_id=message, erasure=Erasure())
        else:
            response.changes.add(post_id=message.post_id, verdict=message)
    with console.capture() as captured:
        render.changes(console, response)
    return captured.get().splitlines()


def test_a_line_has_the_highest_scores() -> None:
    scores = {"spam": 0.97, "scam": 0.5, "hate": 0.25, "nudity": 0.125, "weapons": 0.0}
    findings = [Finding(policy_id=id, probability=score) for id, score in scores.items()]
    findings[1].mode = MODE_SHADOW
    removed = Verdict(
        post_id="a", outcome=OUTCOME_REMOVE, status=STATUS_FINAL, deciding_policy="spam", findings=findings[::-1]
    )
    unread = Verdict(post_id="b", outcome=OUTCOME_ALLOW, status=STATUS_UNDETERMINED, reason="IMAGE_CORRUPT")
    elsewhere = Verdict(post_id="c", outcome=OUTCOME_ALLOW, status=STATUS_FINAL, origin=ORIGIN_NONE)
    part = Verdict(post_id="e", outcome=OUTCOME_ALLOW, status=STATUS_DEGRADED, findings=[Finding(policy_id="spam")])
    part.problems.add(reason="IMAGE_CORRUPT", path="images[1]")
    part.problems.add(reason="TOO_MANY_IMAGES", path="images[8]")
    assert lines(removed, unread, elsewhere, "d", part) == [
        "REMOVE a FINAL by spam; spam 0.970, scam 0.500 (shadow), hate 0.250, 2 lower",
        "ALLOW b UNDETERMINED IMAGE_CORRUPT",
        "ALLOW c FINAL no policy applies to this post",
        "ERASED d",
        "ALLOW e DEGRADED; judged in part at most: IMAGE_CORRUPT, images[1] and 1 more",
    ]


def test_a_record_that_cannot_be_read_is_not_called_no_verdict() -> None:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        render.lookup(console, "a", LookupResult(post_id="a", state=LOOKUP_STATE_UNREADABLE))
        render.lookup(console, "b", LookupResult(post_id="b", state=LOOKUP_STATE_NOT_FOUND))
    assert captured.get().splitlines() == [
        "a: this version cannot read the record under this id on the verdicts topic",
        "b: no verdict",
    ]


def test_an_alias_is_shown_with_the_name_that_the_server_reports() -> None:
    message = Verdict(outcome=OUTCOME_ALLOW, status=STATUS_FINAL)
    message.model.name, message.model.revision, message.model.alias = "openai:gpt-4o-mini", "gpt-4o-mini-2024", True
    assert shown(message)[-1].endswith("; model openai:gpt-4o-mini, which the server calls gpt-4o-mini-2024")


@pytest.mark.parametrize(
    ("probability", "summary"),
    [(0.95, "by guns"), (0.2, "by guns because of IMAGE_CORRUPT"), (None, "by guns because of IMAGE_CORRUPT")],
)
def test_an_outcome_that_no_score_gave_has_its_reason(probability: float | None, summary: str) -> None:
    finding = Finding(
        policy_id="guns",
        probability=probability,
        outcome=OUTCOME_REVIEW,
        status=STATUS_DEGRADED,
        reason="IMAGE_CORRUPT",
    )
    finding.thresholds.review = 0.5
    message = Verdict(outcome=OUTCOME_REVIEW, status=STATUS_DEGRADED, deciding_policy="guns", findings=[finding])
    message.problems.add(reason="IMAGE_CORRUPT", path="images[1]")
    lines = shown(message, files=["a.png", "b.png"])
    assert lines[-2:] == ["judged in part at most: IMAGE_CORRUPT, b.png", f"REVIEW DEGRADED {summary}; model "]


@pytest.mark.parametrize(
    ("reason", "path", "detail", "said"),
    [
        ("TEXT_TOO_LONG", "text", "", "judged in part: TEXT_TOO_LONG, text"),
        ("TOO_MANY_IMAGES", "images[8]", "", "not judged: TOO_MANY_IMAGES, from images[8] on"),
        ("IMAGE_TOO_LARGE", "images[0].data", "", "not judged: IMAGE_TOO_LARGE, images[0].data"),
        ("IMAGE_UNSUPPORTED", "images[0]", "no picture", "not judged: IMAGE_UNSUPPORTED, images[0]: no picture"),
        ("OF_ANOTHER_VERSION", "", "new", "not judged: OF_ANOTHER_VERSION, new"),
    ],
)
def test_what_was_judged_in_part_is_not_called_unjudged(reason: str, path: str, detail: str, said: str) -> None:
    message = Verdict(outcome=OUTCOME_REVIEW, status=STATUS_DEGRADED, findings=[Finding(policy_id="guns")])
    message.problems.add(reason=reason, path=path, detail=detail)
    assert said in shown(message)


@pytest.mark.parametrize(
    ("probability", "outcome", "reason", "detail", "said"),
    [
        (0.2, OUTCOME_REVIEW, "TEXT_TOO_LONG", "", "REVIEW (part unseen)"),
        (0.2, OUTCOME_REMOVE, "TEXT_TOO_LONG", "", "REMOVE (on_error)"),
        (0.2, OUTCOME_REVIEW, "IMAGE_UNSUPPORTED", "no picture", "REVIEW (on_error)"),
        (0.2, OUTCOME_ALLOW, "TEXT_TOO_LONG", "", "ALLOW"),
        (0.6, OUTCOME_REVIEW, "TEXT_TOO_LONG", "", "REVIEW"),
        (0.95, OUTCOME_REMOVE, "", "", "REMOVE"),
    ],
)
def test_an_outcome_in_the_table_says_where_it_comes_from(
    probability: float, outcome: Outcome, reason: str, detail: str, said: str
) -> None:
    finding = Finding(policy_id="guns", probability=probability, outcome=outcome, status=STATUS_DEGRADED, reason=reason)
    finding.thresholds.review, finding.thresholds.remove = 0.5, 0.9
    message = Verdict(outcome=outcome, status=STATUS_DEGRADED, findings=[finding])
    if reason:
        message.problems.add(reason=reason, detail=detail)
    (row,) = [line for line in shown(message) if "guns" in line]
    assert row.split("│")[3].strip() == said


def test_an_answer_that_is_none_counts_as_on_error() -> None:
    finding = Finding(policy_id="guns", probability=0.99, mass=0.1, outcome=OUTCOME_REVIEW, reason="NO_ANSWER")
    finding.status, finding.thresholds.remove, finding.thresholds.mass = STATUS_UNDETERMINED, 0.9, 0.5
    message = Verdict(outcome=OUTCOME_REVIEW, status=STATUS_UNDETERMINED, findings=[finding])
    (row,) = [line for line in shown(message) if "guns" in line]
    assert row.split("│")[3].strip() == "REVIEW (on_error)"


def test_a_yes_without_a_probability_is_no_on_error() -> None:
    finding = Finding(policy_id="guns", outcome=OUTCOME_REVIEW, reason="NO_PROBABILITY", status=STATUS_DEGRADED)
    message = Verdict(outcome=OUTCOME_REVIEW, status=STATUS_DEGRADED, findings=[finding])
    (row,) = [line for line in shown(message) if "guns" in line]
    assert row.split("│")[3].strip() == "REVIEW"


def test_a_verdict_without_findings_has_its_id() -> None:
    message = Verdict(post_id="7", outcome=OUTCOME_ALLOW, status=STATUS_FINAL, origin=ORIGIN_NONE)
    assert shown(message)[0] == "7"


def test_a_line_of_an_undetermined_verdict_has_the_detail() -> None:
    message = Verdict(post_id="b", outcome=OUTCOME_REVIEW, status=STATUS_UNDETERMINED, reason="NOT_DECODABLE")
    message.problems.add(reason="NOT_DECODABLE", path="images[0]", detail="unknown field")
    assert lines(message) == ["REVIEW b UNDETERMINED NOT_DECODABLE; images[0]: unknown field"]


def test_a_removal_that_is_held_and_a_certificate_are_named() -> None:
    held = Finding(policy_id="spam", probability=0.97, outcome=OUTCOME_REVIEW, held="CERTIFICATE_EXPIRED")
    held.status, held.thresholds.remove, held.thresholds.review = STATUS_FINAL, 0.9, 0.5
    sure = Finding(policy_id="scam", probability=0.2, outcome=OUTCOME_ALLOW, certificate="0123456789abcdef")
    sure.status = STATUS_FINAL
    message = Verdict(outcome=OUTCOME_REVIEW, status=STATUS_FINAL, deciding_policy="spam", findings=[held, sure])
    lines = shown(message)
    (first,), (second,) = ([line for line in lines if id in line and "0." in line] for id in ("spam", "scam"))
    assert "REVIEW (held)" in first
    assert "FINAL REMOVE held: CERTIFICATE_EXPIRED" in first
    assert "FINAL certificate 0123456789abcdef" in second
    assert lines[-1] == "REVIEW FINAL by spam, REMOVE held: CERTIFICATE_EXPIRED; model "
