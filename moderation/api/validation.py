"""Requests become queries whose fields are valid. Every function raises RefusedError, which names the field.

Requests are the messages of the proto, as data: an edge fills them from what it receives, and no copy slows a lookup
down. The checks are written by hand. Half are the rules of posts (moderation/wire). A rule engine would take longer
than the lookup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from moderation import wire
from moderation.api import cursors
from moderation.api.errors import RefusedError, invalid, invalid_consistency_token, invalid_page_token
from moderation.types import Outcome
from moderation.v1 import moderation_service_pb2 as pb
from moderation.view.stores import EVER_MS, Query

MAX_RESPONSE_BYTES = (4 << 20) - (256 << 10)  # of a message, less a margin: stock gRPC clients take 4 MiB
MAX_BATCH = 1_000
MAX_PAGE = 1_000
DEFAULT_PAGE = 100
MAX_POLICIES = 100
MAX_REQUEST_ID_BYTES = 128

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class LookupQuery:
    """What a lookup is about."""

    post_ids: Sequence[str]
    tenant: str | None  # None: any
    digest: str = ""  # of the content that a verdict must be on; empty: any
    posts: Mapping[int, int] | None = None  # by partition of the posts topic: offset whose outcome must be known
    posts_id: str = ""  # of that posts topic; empty: of the one that exists now


@dataclass(frozen=True, slots=True)
class WatchQuery:
    """What a watch is about."""

    tenant: str | None  # None: any
    outcomes: frozenset[int]  # empty: all
    policies: frozenset[str]  # empty: all
    start: Mapping[int, int] | None  # by partition of the verdicts topic: next offset; None: from now
    start_id: str = ""  # of that verdicts topic; empty: of the one that exists now


def lookup(request: pb.GetVerdictRequest | pb.WaitVerdictRequest, tenant: str | None) -> LookupQuery:
    """The query of a lookup of one post."""
    post_id = _post_id("post_id", request.post_id)
    if not (request.content_digest or request.consistency_token):
        return LookupQuery((post_id,), tenant)
    if request.content_digest and not _DIGEST.fullmatch(request.content_digest):
        raise invalid("content_digest", "must be 64 hex digits in lower case")
    return LookupQuery((post_id,), tenant, request.content_digest, *_posts(request.consistency_token))


def batch(request: pb.BatchGetVerdictsRequest, tenant: str | None) -> LookupQuery:
    """The query of a lookup of several posts, without a check of their ids: an id that has a verdict needs none."""
    if not 0 < len(request.post_ids) <= MAX_BATCH:
        raise invalid("post_ids", f"must be 1 to {MAX_BATCH} ids")
    return LookupQuery(list(request.post_ids), tenant, "", *_posts(request.consistency_token))


def check_id(post_id: str, index: int) -> str:
    """The id of the post at this index of a batch."""
    return _post_id(f"post_ids[{index}]", post_id)


def watch(request: pb.WatchVerdictsRequest, tenant: str | None) -> WatchQuery:
    """The query of a watch. A consistency token of a post has no position to start from."""
    start, start_id = None, ""
    if request.consistency_token:
        position = _position(request.consistency_token)
        start, start_id = dict(position.verdicts), position.verdicts_topic_id
        if not start:
            raise invalid_consistency_token()
    outcomes, policies = frozenset(_outcomes(request.outcomes)), frozenset(_policies(request.policy_ids))
    return WatchQuery(tenant, outcomes, policies, start, start_id)


def listing(request: pb.ListVerdictsRequest, tenant: str | None) -> tuple[Query, bytes]:
    """The query of a page, and a key that all pages of its listing share."""
    if request.page_size < 0:
        raise invalid("page_size", "must not be negative")
    outcomes, policies = _outcomes(request.outcomes), _policies(request.policy_ids)
    from_ms = _ms("decided_from", request.decided_from) if request.HasField("decided_from") else -EVER_MS
    before_ms = _ms("decided_before", request.decided_before) if request.HasField("decided_before") else EVER_MS
    common = repr((tenant, outcomes, policies, from_ms, before_ms)).encode()
    after = EVER_MS, ""
    if request.page_token:
        try:
            after = cursors.page(common, request.page_token)
        except ValueError:
            raise invalid_page_token() from None
    size = min(request.page_size or DEFAULT_PAGE, MAX_PAGE)
    return Query(tenant, outcomes, policies, from_ms, before_ms, after, size, MAX_RESPONSE_BYTES), common


def policies(request: pb.ListPoliciesRequest, digest: str) -> str:
    """The id of the last policy on the page before. `digest`: of the policy set."""
    if not request.page_token:
        return ""
    try:
        return cursors.page(digest.encode(), request.page_token)[1]
    except ValueError:
        raise invalid_page_token() from None


def request_id(request: pb.ModeratePostRequest) -> str:
    """The request id, which may be empty."""
    if len(request.request_id.encode()) > MAX_REQUEST_ID_BYTES:
        raise invalid("request_id", f"must be at most {MAX_REQUEST_ID_BYTES} bytes")
    return request.request_id


def tenant_problem(tenant: str) -> RefusedError | None:
    """Why a string cannot be a tenant; None: it can."""
    problem = wire.label_problem(tenant)
    return invalid("tenant", problem) if problem else None


def _post_id(field: str, post_id: str) -> str:
    if problem := wire.id_problem(post_id):
        raise invalid(field, problem)
    return post_id


def _posts(token: bytes) -> tuple[Mapping[int, int] | None, str]:
    """The offsets of a token, and the id of their topic."""
    if not token:
        return None, ""
    position = _position(token)
    return dict(position.posts) or None, position.posts_topic_id


def _position(token: bytes) -> pb.Position:
    try:
        return cursors.position(token)
    except ValueError:
        raise invalid_consistency_token() from None


def _outcomes(values: Iterable[int]) -> tuple[int, ...]:
    outcomes = tuple(sorted(set(values)))
    if not set(outcomes) <= {int(outcome) for outcome in Outcome}:
        raise invalid("outcomes", "must be among ALLOW, REVIEW, REMOVE")
    return outcomes


def _policies(values: Iterable[str]) -> tuple[str, ...]:
    policies = tuple(sorted(set(values)))
    if len(policies) > MAX_POLICIES:
        raise invalid("policy_ids", f"must be at most {MAX_POLICIES} ids")
    for policy in policies:
        if not policy or (problem := wire.label_problem(policy)):
            raise invalid("policy_ids", problem if policy else "must not hold an empty id")
    return policies


def _ms(field: str, stamp: Timestamp) -> int:
    try:
        stamp.ToJsonString()  # checks the range
    except ValueError:
        raise invalid(field, "must be between the years 1 and 9999") from None
    return stamp.seconds * 1000 + stamp.nanos // 1_000_000
