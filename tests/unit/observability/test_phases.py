"""Phases have one list of names: types, protos, JSON and metrics name the phases of this list and no others."""

from __future__ import annotations

import json
from dataclasses import fields

from prometheus_client import REGISTRY

from moderation.observability import metrics, phases
from moderation.types import Timings
from moderation.v1 import verdict_pb2
from moderation.wire import json_out
from tests.support.builders import a_verdict


def test_timings_have_a_field_for_each_phase_in_their_order() -> None:
    names = [phase.value for phase in phases.TIMINGS]
    assert [field.name for field in fields(Timings)] == names
    assert [field.name for field in verdict_pb2.Timings.DESCRIPTOR.fields] == names
    in_json = [field.json_name for field in verdict_pb2.Timings.DESCRIPTOR.fields]
    assert list(json.loads(json_out.dumps(a_verdict(), ""))["timings"]) == in_json


def test_a_timing_keeps_its_phase_in_protos_and_json() -> None:
    spent = Timings(*(float(number) for number in range(1, 7)))
    message = json.loads(json_out.dumps(a_verdict(timings=spent), ""))["timings"]
    for field in verdict_pb2.Timings.DESCRIPTOR.fields:
        assert message[field.json_name] == getattr(spent, field.name)


def test_metrics_measure_the_phases_of_the_list() -> None:
    (family,) = (family for family in REGISTRY.collect() if family.name == metrics.PHASES.name)
    assert {sample.labels["phase"] for sample in family.samples} == {phase.value for phase in phases.MEASURED}
