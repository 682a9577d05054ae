"""The fast reader of a verdict's JSON reads what google.protobuf.json_format reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from moderation import wire
from moderation.types import Origin, Outcome, Reason, Score, Severity, Source, Status, Timings, Verdict
from moderation.v1.verdict_pb2 import Verdict as Message
from moderation.wire import json_in
from tests.support.builders import a_finding, a_verdict

labels = st.text(max_size=12).filter(lambda text: not wire.label_problem(text))
findings = st.builds(
    a_finding,
    st.sampled_from(["spam", "hate"]),
    score=st.none() | st.builds(Score, st.floats(0, 1), st.floats(-50, 50), st.floats(0, 1)),
    outcome=st.sampled_from(Outcome),
    reason=st.none() | st.just(Reason.NO_ANSWER),
)
verdicts = st.builds(
    a_verdict,
    st.text("abc-é😀", min_size=1, max_size=12),
    tenant=labels,
    deciding_policy=labels,
    outcome=st.sampled_from(Outcome),
    status=st.sampled_from(Status),
    origin=st.sampled_from(Origin),
    severity=st.sampled_from(Severity),
    findings=st.lists(findings, max_size=3).map(tuple),
    decided_at_ms=st.integers(-62_135_596_800_000, 253_402_300_799_999),
    source=st.none() | st.builds(Source, labels, st.integers(0, 99), st.integers(0, 2**62), st.integers(0, 2**41)),
    timings=st.builds(Timings, st.floats(0, 1e6)),
)


@given(verdicts)
def test_json_that_this_service_wrote_is_read_as_the_library_reads_it(verdict: Verdict) -> None:
    value, headers = wire.verdict_record(verdict, "json")
    assert json_in.parse(value, Message) == json_format.Parse(value, Message())
    assert wire.read_verdict(value, headers) == json_format.Parse(value, Message())


@pytest.mark.parametrize(
    "changed",
    [
        {"outcome": "OUTCOME_OF_TOMORROW"},
        {"outcome": 3},
        {"decidedAt": "2026-01-01T00:00:00.123456789Z"},
        {"decidedAt": "2026-01-01T02:00:00+02:00"},
        {"decidedAt": 7},
        {"findings": None},
        {"findings": {}},
        {"findings": [{"probability": "NaN"}]},
        {"findings": [{"probability": "x"}]},
        {"source": {"offset": 12, "partition": "1"}},
        {"source": []},
        {"timings": {"queue": "Infinity"}},
        {"policy_set": {"digest": "x"}},
        {"unknown": {"a": [1]}},
        {"postId": 5},
    ],
)
def test_json_in_any_other_shape_is_read_by_the_library(changed: dict[str, Any]) -> None:
    value, headers = wire.verdict_record(a_verdict(), "json")
    value = json.dumps(json.loads(value) | changed).encode()
    try:
        wanted = json_format.Parse(value, Message(), ignore_unknown_fields=True)
        assert wanted.outcome
        assert wanted.post_id
    except (json_format.Error, AssertionError):
        with pytest.raises(ValueError, match="not a moderation"):
            wire.read_verdict(value, headers)
    else:
        assert repr(wire.read_verdict(value, headers)) == repr(wanted)


@pytest.mark.parametrize("value", [b"", b"[]", b"7", b"{", b"\xff", b'{"findings": [[]]}', b"[" * 100_000])
def test_values_that_are_not_a_verdict_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        json_in.parse(value, Message)
