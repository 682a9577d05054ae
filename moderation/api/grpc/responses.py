"""Responses, from verdicts as they are stored: their bytes go into the response's bytes, and nothing is parsed.

The fields of a message may be written one after the other. That is all that happens here, for the messages that matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from moderation import wire
from moderation.api import cursors
from moderation.api.lookups import Page, Result
from moderation.api.submissions import Accepted
from moderation.api.validation import MAX_RESPONSE_BYTES
from moderation.policies import Policy, PolicySet, digest_of
from moderation.types import Outcome, Severity
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1 import policy_pb2, verdict_pb2


def _tag(message: type[Message], field: str) -> bytes:
    """What stands before a field that has a length."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


POLICY_BYTES = 16  # that a policy takes in a response besides its own

_STATES = {state: pb.GetVerdictResponse(state=name).SerializeToString() for name, state in pb.LookupState.items()}
_RESULT_STATES = {state: pb.LookupResult(state=name).SerializeToString() for name, state in pb.LookupState.items()}
_VERDICT = _tag(pb.GetVerdictResponse, "verdict")
_RESULT = _tag(pb.BatchGetVerdictsResponse, "results")
_RESULT_ID = _tag(pb.LookupResult, "post_id")
_RESULT_VERDICT = _tag(pb.LookupResult, "verdict")
_LISTED = _tag(pb.ListVerdictsResponse, "verdicts")


def lookup(result: Result) -> bytes:
    """A GetVerdictResponse, or a WaitVerdictResponse: they have the same fields."""
    state, verdict = result
    return _STATES[state] if verdict is None else b"".join((_STATES[state], _VERDICT, _varint(len(verdict)), verdict))


def result(post_id: str, result: Result) -> bytes:
    """One result of a BatchGetVerdictsResponse, tag and length included."""
    state, verdict = result
    id = post_id.encode()
    fields = [_RESULT_ID, _varint(len(id)), id, _RESULT_STATES[state]]
    if verdict is not None:
        fields += [_RESULT_VERDICT, _varint(len(verdict)), verdict]
    return b"".join([_RESULT, _varint(sum(map(len, fields))), *fields])


def found_result(post_id: str, verdict: bytes) -> bytes:
    """The result for a post that has a verdict. The verdict's bytes stand at its end."""
    return result(post_id, (pb.LOOKUP_STATE_FOUND, verdict))


def batch(post_ids: Sequence[str], results: Sequence[bytes]) -> bytes:
    """A BatchGetVerdictsResponse, of what `result` returned for each id. What it has no room for is DEFERRED.

    There is room for one verdict at least, as long as LARGEST_VERDICT and all ids fit.
    """
    response = b"".join(results)
    if len(response) <= MAX_RESPONSE_BYTES:
        return response
    deferred = [result(post_id, (pb.LOOKUP_STATE_DEFERRED, None)) for post_id in post_ids]
    size = sum(map(len, deferred))
    for count, (part, without) in enumerate(zip(results, deferred, strict=True)):
        size += len(part) - len(without)
        if size > MAX_RESPONSE_BYTES:
            return b"".join([*results[:count], *deferred[count:]])
    return response


def page(page: Page) -> bytes:
    """A ListVerdictsResponse."""
    parts = [part for verdict in page.verdicts for part in (_LISTED, _varint(len(verdict)), verdict)]
    return b"".join([*parts, pb.ListVerdictsResponse(next_page_token=page.next_page_token).SerializeToString()])


def submission(accepted: Accepted, result: Result) -> pb.ModeratePostResponse:
    """The response to a submitted post."""
    state, verdict = result
    return pb.ModeratePostResponse(
        state=state,
        verdict=verdict_pb2.Verdict.FromString(verdict) if verdict is not None else None,
        source=wire.source_message(accepted.source),
        consistency_token=accepted.consistency_token,
    )


def policies(policies: PolicySet, after: str, *, prompts: bool) -> pb.ListPoliciesResponse:
    """The policies behind the one with the id `after`, as many as there is room for, with or without the prompts."""
    response = pb.ListPoliciesResponse(digest=policies.digest)
    response.read_at.FromMilliseconds(policies.read_ms)
    size = 0
    for policy in policies.policies:
        if policy.id <= after:
            continue
        message = _policy(policy, prompts=prompts)
        size += message.ByteSize() + POLICY_BYTES
        if response.policies and size > MAX_RESPONSE_BYTES:
            response.next_page_token = cursors.of_page(policies.digest.encode(), (0, response.policies[-1].id))
            break
        response.policies.append(message)
    return response


def serialized(response: Message | bytes) -> bytes:
    """The bytes of a response."""
    return response if isinstance(response, bytes) else response.SerializeToString()


def _policy(policy: Policy, *, prompts: bool) -> policy_pb2.Policy:
    thresholds = policy.thresholds
    return policy_pb2.Policy(
        id=policy.id,
        version=policy.version,
        digest=digest_of([policy]),
        title=policy.title,
        status=f"POLICY_STATUS_{policy.status.name}",
        severity=wire.number(Severity[policy.severity.upper()]),
        thresholds=verdict_pb2.Thresholds(review=thresholds.review, remove=thresholds.remove, mass=thresholds.mass),
        on_error=wire.number(Outcome[policy.on_error.upper()]),
        prompt=policy.prose if prompts else "",
    )
