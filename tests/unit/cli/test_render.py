"""What a person reads of a verdict on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from moderation.cli import render
from moderation.v1.verdict_pb2 import (
    MODE_SHADOW,
    ORIGIN_NONE,
    OUTCOME_ALLOW,
    OUTCOME_REMOVE,
    STATUS_FINAL,
    STATUS_UNDETERMINED,
    Finding,
    Verdict,
)


def shown(message: Verdict, **options: dict[str, str]) -> list[str]:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        render.verdict(console, message, skipped=options.get("skipped"))
    return captured.get().splitlines()


def test_a_verdict_without_findings_says_that_no_policy_applies() -> None:
    message = Verdict(outcome=OUTCOME_ALLOW, status=STATUS_FINAL, origin=ORIGIN_NONE)
    skipped = {"german": "languages: de", "profiles": "surfaces: profile"}
    assert shown(message, skipped=skipped) == [
        "not asked: german (languages: de), profiles (surfaces: profile)",
        "ALLOW FINAL no policy applies to this post; model ",
    ]


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
    assert "FINAL (shadow: does not count)" in tried
    assert "shadow" not in live
    assert lines[-1] == "ALLOW FINAL; model "
    assert shown(Verdict(outcome=OUTCOME_ALLOW, status=STATUS_FINAL, findings=findings[:1]))[-1] == (
        "ALLOW FINAL no live policy applies to this post; model "
    )


def test_an_alias_is_shown_with_the_name_that_the_server_reports() -> None:
    message = Verdict(outcome=OUTCOME_ALLOW, status=STATUS_FINAL)
    message.model.name, message.model.revision, message.model.alias = "openai:gpt-4o-mini", "gpt-4o-mini-2024", True
    assert shown(message)[-1].endswith("; model openai:gpt-4o-mini, which the server calls gpt-4o-mini-2024")
