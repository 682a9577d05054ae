"""Every refusal has a gRPC status, with details for programs."""

from __future__ import annotations

from google.rpc import error_details_pb2, status_pb2

from moderation.api.errors import RefusalKind, exhausted, forbidden, invalid
from moderation.api.grpc.status import CODES, status_of


def details(status: status_pb2.Status) -> dict[str, bytes]:
    return {detail.type_url.rpartition(".")[2]: detail.value for detail in status.details}


def sent(metadata: tuple[tuple[str, bytes], ...]) -> status_pb2.Status:
    return status_pb2.Status.FromString(dict(metadata)["grpc-status-details-bin"])


def test_every_kind_has_a_code_of_its_own() -> None:
    assert CODES.keys() == set(RefusalKind)
    assert len(set(CODES.values())) == len(CODES)


def test_a_field_that_breaks_a_rule_is_named() -> None:
    status = status_of(invalid("post_id", "is empty"))
    assert status.details == "post_id is empty"
    request = error_details_pb2.BadRequest.FromString(details(sent(status.trailing_metadata))["BadRequest"])
    assert [violation.field for violation in request.field_violations] == ["post_id"]


def test_a_reason_comes_with_its_metadata() -> None:
    status = status_of(forbidden("MISSING_SCOPE", "the credentials lack the scope x", scope="x"))
    info = error_details_pb2.ErrorInfo.FromString(details(sent(status.trailing_metadata))["ErrorInfo"])
    assert (info.domain, info.reason, dict(info.metadata)) == ("moderation.v1", "MISSING_SCOPE", {"scope": "x"})


def test_a_time_to_try_again_is_sent() -> None:
    status = status_of(exhausted("OVERLOADED", "too many calls", 0.5))
    retry = error_details_pb2.RetryInfo.FromString(details(sent(status.trailing_metadata))["RetryInfo"])
    assert retry.retry_delay.ToTimedelta().total_seconds() == 0.5
