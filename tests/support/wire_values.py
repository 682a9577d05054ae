"""What may come over the wire, as strategies for Hypothesis: JSON values, headers, verdicts."""

from __future__ import annotations

from hypothesis import strategies as st

from moderation import wire
from moderation.types import (
    Detail,
    Finding,
    ModelInfo,
    Origin,
    Outcome,
    Problem,
    Reason,
    Score,
    Severity,
    Source,
    Standing,
    Status,
    Thresholds,
    Timings,
    Verdict,
    YesNo,
)

PROTOBUF = [("content-type", b"application/x-protobuf")]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
headers = st.sampled_from([[], PROTOBUF, [("content-type", b"application/json")]]) | st.lists(
    st.tuples(st.sampled_from(["content-type", "x"]), st.none() | st.binary(max_size=20)), max_size=2
)

words = st.text(st.characters(codec="utf-8"), max_size=20)
ids = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=50)
numbers = st.floats(allow_nan=False)
labels = words.filter(lambda word: not wire.label_problem(word))
counts = st.integers(0, 2**31 - 1)
times = st.integers(-62_135_596_800_000, 253_402_300_799_999)
reasons = st.none() | st.sampled_from(Reason)
thresholds = st.builds(Thresholds, numbers, numbers, numbers)
findings = st.builds(
    Finding,
    policy_id=words,
    policy_version=counts,
    outcome=st.sampled_from(Outcome),
    severity=st.sampled_from(Severity),
    thresholds=thresholds,
    score=st.none() | st.builds(Score, numbers, numbers, st.none() | numbers),
    windows=counts,
    counts=st.booleans(),
    reason=reasons,
    path=words,
    answered=st.none() | counts,
    silence=reasons,
    unweighed=st.none() | st.builds(YesNo, st.booleans()),
    score_digest=words,
    certificate=words,
    held=st.none() | st.sampled_from(Standing),
)
problems = st.builds(Problem, st.sampled_from(Reason), words, st.none() | st.sampled_from(Detail))
verdicts = st.builds(
    Verdict,
    post_id=ids,
    tenant=labels,
    content_digest=words,
    policy_set_digest=words,
    model=st.builds(ModelInfo, words, words, words, st.booleans()),
    outcome=st.sampled_from(Outcome),
    status=st.sampled_from(Status),
    origin=st.sampled_from(Origin),
    deciding_policy=labels,
    severity=st.sampled_from(Severity),
    findings=st.lists(findings, max_size=3).map(tuple),
    decided_at_ms=times,
    reason=reasons,
    problems=st.lists(problems, max_size=3).map(tuple),
    source=st.none() | st.builds(Source, words, counts, st.integers(0, 2**63 - 1), times),
    timings=st.builds(Timings, *[numbers] * 6),
    decision_state=words,
)
formats = st.sampled_from(["json", "protobuf"])
