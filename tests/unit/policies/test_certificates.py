"""Certificates: what moves a score digest, when one holds, and which decision state that makes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.errors import ConfigError
from moderation.policies import Certificate, Policy, PolicySet, States, certificates, prompts, score_digest
from moderation.policies.certificates import REMEDY, Footing, days_left, load, read, read_file, written
from moderation.policies.mistakes import Mistake
from moderation.types import Outcome, Post, Standing
from tests.fuzz.mutations import mutated
from tests.support.builders import a_policy
from tests.support.certificates import ISSUED, a_certificate, put

MODEL = "a" * 64
POLICY = a_policy()
START = ISSUED.timestamp()


@pytest.mark.parametrize(
    "change",
    [
        {"title": "Ponds"},
        {"question": "Does it mention a pond?"},
        {"definitions": {"lake": "a water"}},
        {"violates": [{"id": "L1", "text": "mentions a pond"}]},
        {"allows": [{"id": "L0", "text": "mentions the sea"}]},
        {"examples": [{"text": "at the lake", "label": "L1"}]},
    ],
)
def test_each_word_that_the_model_reads_is_in_the_score_digest(change: dict[str, Any]) -> None:
    assert score_digest(a_policy(**change), MODEL) != score_digest(POLICY, MODEL)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"status": "draft"},
        {"status": "shadow"},
        {"status": "retired"},
        {"severity": "critical"},
        {"on_error": "remove"},
        {"thresholds": {"review": 0.1, "remove": 0.2, "mass": 0.3}},
        {"applies_to": {"languages": ["de"]}},
        {"certificate": "required"},
        {"gate": {"precision": 0.9}},
        {"golden": "cases.jsonl"},
        {"violates": [{"id": "L2", "text": "mentions a lake", "severity": "high"}]},
        {"id": "other"},
    ],
)
def test_nothing_else_is_in_it(change: dict[str, Any]) -> None:
    assert score_digest(a_policy(**change), MODEL) == score_digest(POLICY, MODEL)


def test_the_model_the_words_around_and_the_preparation_are_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = {score_digest(POLICY, MODEL), score_digest(POLICY, "b" * 64)}
    with monkeypatch.context() as changed:
        changed.setattr(prompts, "WORDS", "other words")
        digests.add(score_digest(POLICY, MODEL))
    monkeypatch.setattr(certificates, "PREPARATION", "colours 2")
    digests.add(score_digest(POLICY, MODEL))
    assert len(digests) == 4


def test_no_two_texts_run_together_in_it() -> None:
    """Words that move from one part to the next make another digest."""
    one = a_policy(title="A", question="B C?")
    other = a_policy(title="A", question="B  C?")
    assert score_digest(one, MODEL) != score_digest(other, MODEL)
    assert score_digest(one, "m") != score_digest(one, "m\n")


@pytest.mark.parametrize(
    ("policy", "score", "now", "standing"),
    [
        (POLICY, score_digest(POLICY, MODEL), START, Standing.VALID),
        (POLICY, score_digest(POLICY, MODEL), START + 86_399.9, Standing.VALID),
        (POLICY, score_digest(POLICY, MODEL), START + 86_400, Standing.EXPIRED),
        (POLICY, score_digest(POLICY, "b" * 64), START, Standing.OTHER_SCORE),
        (a_policy("other"), score_digest(POLICY, MODEL), START, Standing.OTHER_SCORE),
        (a_policy(thresholds={"review": 0.5, "remove": 0.91}), score_digest(POLICY, MODEL), START,
         Standing.OTHER_THRESHOLD),
        (a_policy(thresholds={"review": 0.5, "remove": 0.9, "mass": 0.1}), score_digest(POLICY, MODEL), START,
         Standing.OTHER_THRESHOLD),
        (a_policy(thresholds={"review": 0.6, "remove": 0.9}), score_digest(POLICY, MODEL), START, Standing.VALID),
        (a_policy(version=9, status="draft", severity="low"), score_digest(POLICY, MODEL), START, Standing.VALID),
    ],
)  # fmt: skip
def test_a_certificate_holds_for_its_score_its_threshold_and_its_time(
    policy: Policy, score: str, now: float, standing: Standing
) -> None:
    certificate = a_certificate(POLICY, model_digest=MODEL, expires_at=ISSUED + timedelta(days=1))
    assert certificate.standing(policy, score, now) is standing


def test_its_id_is_of_its_content_and_not_of_its_layout(tmp_path: Path) -> None:
    certificate = a_certificate(POLICY)
    path = put(tmp_path, certificate)
    assert read(path) == certificate
    assert written(read(path)) == path.read_text()
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    assert read(path).id == certificate.id
    assert a_certificate(POLICY, labels_digest="3" * 64).id != certificate.id
    assert len(certificate.id) == 16


def test_times_of_any_zone_are_read_and_one_without_a_zone_is_refused(tmp_path: Path) -> None:
    east = timezone(timedelta(hours=9))
    path = put(tmp_path, a_certificate(POLICY, expires_at=datetime(2027, 1, 1, 9, 0, tzinfo=east)))
    assert read(path).expires_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert days_left(read(path), datetime(2026, 12, 31, tzinfo=UTC)) == 1
    path.write_text(path.read_text().replace("+09:00", ""))
    with pytest.raises(ConfigError, match=r"no-lakes\.certificate\.json:38: no certificate: expires_at: .*certify"):
        read(path)


def test_an_end_that_no_clock_reaches_is_refused(tmp_path: Path) -> None:
    """A worker logs the end in UTC, where it may be in the year 10000."""
    path = put(tmp_path, a_certificate(POLICY, expires_at=datetime(9999, 12, 31, 23, tzinfo=UTC)))
    assert read(path)
    text = path.read_text()
    path.write_text(text.replace("9999-12-31T23:00:00Z", "9999-12-31T23:00:00-05:00"))
    assert path.read_text() != text
    with pytest.raises(ConfigError, match=r"no certificate: it ends \(expires_at\) after the year 9999"):
        read(path)


def test_a_broken_certificate_keeps_a_set_from_loading_and_each_is_named(tmp_path: Path) -> None:
    for id in ("lakes", "ponds"):
        (tmp_path / f"{id}.certificate.json").write_text("{")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, ["lakes", "ponds", "seas"])
    lines = str(caught.value).splitlines()
    assert [line.partition(": no certificate")[0] for line in lines] == [
        f"{tmp_path}/lakes.certificate.json:1",
        f"{tmp_path}/ponds.certificate.json:1",
    ]


def test_nothing_of_a_broken_file_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "lakes.certificate.json"
    word = "a-word-of-it"
    for text in (word, f'{{"format": "{word}"}}', written(a_certificate(POLICY)).replace("2026", word)):
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read(path)
        assert word not in str(caught.value)


# The decision state


def a_state(certificates: dict[str, Certificate], *policies: Policy) -> Callable[[float], Any]:
    states = States(policies, certificates, MODEL)
    return lambda days: states.at(START + days * 86_400)


LAKES = a_policy("lakes", certificate="required")
PONDS = a_policy("ponds")
SEAS = a_policy("seas", certificate="required", status="draft")


def test_a_state_names_each_policy_that_has_or_requires_a_certificate() -> None:
    certificate = a_certificate(PONDS, model_digest=MODEL, expires_at=ISSUED + timedelta(days=1))
    at = a_state({"ponds": certificate}, LAKES, PONDS, SEAS, a_policy("rain"))
    assert at(0).text == f"lakes=CERTIFICATE_MISSING ponds={certificate.id}"
    assert at(1).text == "lakes=CERTIFICATE_MISSING ponds=CERTIFICATE_EXPIRED"
    assert at(0).holding == {"ponds"}
    assert at(1).holding == frozenset()
    assert at(0).footings["rain"] == Footing(score_digest(a_policy("rain"), MODEL), "", Standing.MISSING)
    assert at(0).footings["ponds"].certificate == certificate.id
    assert at(1).footings["ponds"].certificate == ""
    assert "seas" not in at(0).footings


def test_without_certificates_the_state_is_empty_and_identities_are_as_before() -> None:
    assert a_state({}, PONDS, a_policy("rain"))(0).text == ""


def test_the_state_is_that_of_the_moment_whatever_was_asked_before() -> None:
    """It is remembered between two ends of certificates. A clock may also go back."""
    one = a_certificate(LAKES, model_digest=MODEL, expires_at=ISSUED + timedelta(days=1))
    two = a_certificate(PONDS, model_digest=MODEL, expires_at=ISSUED + timedelta(days=3))
    held = {"lakes": one, "ponds": two}
    moments = [-5.0, 0.0, 0.999, 1.0, 2.0, 3.0, 4.0]
    fresh = {moment: a_state(held, LAKES, PONDS)(moment).text for moment in moments}
    assert len(set(fresh.values())) == 3
    at = a_state(held, LAKES, PONDS)
    for first in moments:
        for second in moments:
            assert (at(first).text, at(second).text) == (fresh[first], fresh[second])


def test_promotion_keeps_the_certificate_and_another_words_end_it() -> None:
    draft = a_policy("lakes", status="shadow", version=1)
    certificate = a_certificate(draft, model_digest=MODEL)
    for changed in (a_policy("lakes", status="live", version=2), a_policy("lakes", on_error="remove", version=3)):
        assert a_state({"lakes": certificate}, changed)(1).text == f"lakes={certificate.id}"
    other = a_policy("lakes", title="Ponds")
    assert a_state({"lakes": certificate}, other)(1).text == "lakes=CERTIFICATE_OF_ANOTHER_SCORE"


@pytest.mark.parametrize(
    ("holding", "outcome"), [(frozenset(), Outcome.REVIEW), (frozenset({"lakes"}), Outcome.REMOVE)]
)
def test_what_cannot_be_read_is_not_removed_for_a_policy_without_its_certificate(
    holding: frozenset[str], outcome: Outcome
) -> None:
    required = a_policy("lakes", certificate="required", on_error="remove")
    assert PolicySet.of([required]).on_error_for(Post("1"), holding) is outcome
    free = a_policy("ponds", on_error="remove")
    assert PolicySet.of([required, free]).on_error_for(Post("1"), holding) is Outcome.REMOVE
    mild = a_policy("lakes", certificate="required", on_error="allow")
    assert PolicySet.of([mild]).on_error_for(Post("1"), holding) is Outcome.ALLOW


FILE = written(a_certificate(POLICY)).encode()


@settings(max_examples=150)
@given(mutated([FILE, FILE.replace(b'"n": 59', b'"n": [[{"n": []}]]')]))
def test_a_damaged_file_is_a_certificate_or_a_mistake_with_a_line_and_what_to_do(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "no-lakes.certificate.json"
        path.write_bytes(data)
        found = read_file(path)
    if isinstance(found, Mistake):
        assert 1 <= found.line <= data.count(b"\n") + data.count(b"\r") + 1
        assert found.text.endswith((REMEDY, "delete it"))
        assert "\n" not in found.text
    else:
        assert found.policy == "no-lakes"


@settings(max_examples=100)
@given(
    st.sampled_from(sorted(Certificate.model_fields)),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    ),
)
def test_a_key_of_any_value_is_refused_or_read_as_it_is(key: str, value: Any) -> None:
    content = json.loads(FILE) | {key: value}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "no-lakes.certificate.json"
        path.write_text(json.dumps(content))
        found = read_file(path)
    if isinstance(found, Certificate):
        assert Certificate.model_validate_json(written(found)) == found
        assert found.id == Certificate.model_validate_json(written(found)).id
