"""What callers ask for, its fields checked once. Raises RefusedError naming the field that breaks a rule.

By hand: the rules are few, half of them are those of posts (moderation/wire), and a rule engine would cost a point
lookup more than the lookup does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from moderation import wire
from moderation.api import cursors
from moderation.api.grpc.status import RefusedError, bad_token, invalid
from moderation.types import Outcome
from moderation.v1 import moderation_service_pb2 as pb
from moderation.view.stores import Query

MAX_BATCH = 1_000
MAX_PAGE = 1_000
DEFAULT_PAGE = 100
MAX_POLICIES = 100
MAX_REQUEST_ID_BYTES = 128
EVER_MS = 1 << 62

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Look:
    """What is asked about posts."""

    post_ids: Sequence[str]
    tenant: str | None  # None: any
    digest: str = ""
    posts: Mapping[int, int] | None = None  # positions of the posts topic that the answer must not miss


@dataclass(frozen=True, slots=True)
class Watch:
    """What is to be watched."""

    tenant: str | None
    outcomes: frozenset[int]
    policies: frozenset[str]
    start: Mapping[int, int] | None  # positions of the verdicts topic; None: from now


def one(request: pb.GetVerdictRequest | pb.WaitVerdictRequest, tenant: str | None) -> Look:
    """A lookup of one post."""
    post_id = _post_id("post_id", request.post_id)
    if not (request.content_digest or request.consistency_token):
        return Look((post_id,), tenant)
    if request.content_digest and not _DIGEST.fullmatch(request.content_digest):
        raise invalid("content_digest", "is not 64 hex digits in lower case")
    return Look((post_id,), tenant, request.content_digest, _posts(request.consistency_token))


def many(request: pb.BatchGetVerdictsRequest, tenant: str | None) -> Look:
    """A lookup of several, whose ids are still to be checked: those under which there is a verdict need no check."""
    if not 0 < len(request.post_ids) <= MAX_BATCH:
        raise invalid("post_ids", f"must be 1 to {MAX_BATCH} in one call")
    return Look(list(request.post_ids), tenant, posts=_posts(request.consistency_token))


def check_id(post_id: str, index: int) -> str:
    """The id, which is one of several."""
    return _post_id(f"post_ids[{index}]", post_id)


def watch(request: pb.WatchVerdictsRequest, tenant: str | None) -> Watch:
    """A watch. A token of a post says nothing of where to begin."""
    start = None
    if request.consistency_token:
        start = dict(_position(request.consistency_token).verdicts)
        if not start:
            raise bad_token("consistency_token")
    return Watch(tenant, frozenset(_outcomes(request.outcomes)), frozenset(_policies(request.policy_ids)), start)


def listing(request: pb.ListVerdictsRequest, tenant: str | None) -> tuple[Query, bytes]:
    """A page of a listing, and what its pages have in common."""
    if request.page_size < 0:
        raise invalid("page_size", "is negative")
    outcomes, policies = _outcomes(request.outcomes), _policies(request.policy_ids)
    from_ms = _ms("decided_from", request.decided_from) if request.HasField("decided_from") else -EVER_MS
    before_ms = _ms("decided_before", request.decided_before) if request.HasField("decided_before") else EVER_MS
    common = repr((tenant, outcomes, policies, from_ms, before_ms)).encode()
    after = EVER_MS, ""
    if request.page_token:
        try:
            after = cursors.page(common, request.page_token)
        except ValueError:
            raise bad_token("page_token") from None
    most = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
    return Query(tenant, outcomes, policies, from_ms, before_ms, after, most), common


def request_id(request: pb.ModeratePostRequest) -> str:
    """The request id, which may be empty."""
    if len(request.request_id.encode()) > MAX_REQUEST_ID_BYTES:
        raise invalid("request_id", f"is longer than {MAX_REQUEST_ID_BYTES} bytes")
    return request.request_id


def tenant_problem(tenant: str) -> RefusedError | None:
    """Why a string cannot be a tenant."""
    problem = wire.label_problem(tenant)
    return invalid("tenant", problem) if problem else None


def _post_id(field: str, post_id: str) -> str:
    if problem := wire.id_problem(post_id):
        raise invalid(field, problem)
    return post_id


def _posts(token: bytes) -> Mapping[int, int] | None:
    return dict(_position(token).posts) or None if token else None


def _position(token: bytes) -> pb.Position:
    try:
        return cursors.position(token)
    except ValueError:
        raise bad_token("consistency_token") from None


def _outcomes(given: Iterable[int]) -> tuple[int, ...]:
    outcomes = tuple(sorted(set(given)))
    if not set(outcomes) <= {int(one) for one in Outcome}:
        raise invalid("outcomes", "holds one that is none of ALLOW, REVIEW, REMOVE")
    return outcomes


def _policies(given: Iterable[str]) -> tuple[str, ...]:
    policies = tuple(sorted(set(given)))
    if len(policies) > MAX_POLICIES:
        raise invalid("policy_ids", f"are more than {MAX_POLICIES}")
    for policy in policies:
        if not policy or (problem := wire.label_problem(policy)):
            raise invalid("policy_ids", problem if policy else "holds an empty one")
    return policies


def _ms(field: str, stamp: Timestamp) -> int:
    try:
        stamp.ToJsonString()  # checks the range
    except ValueError:
        raise invalid(field, "is no time between the years 1 and 9999") from None
    return stamp.seconds * 1000 + stamp.nanos // 1_000_000
