import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from moderation.v1 import policy_pb2 as _policy_pb2
from moderation.v1 import post_pb2 as _post_pb2
from moderation.v1 import verdict_pb2 as _verdict_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LookupState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOOKUP_STATE_UNSPECIFIED: _ClassVar[LookupState]
    LOOKUP_STATE_FOUND: _ClassVar[LookupState]
    LOOKUP_STATE_PENDING: _ClassVar[LookupState]
    LOOKUP_STATE_NOT_FOUND: _ClassVar[LookupState]
    LOOKUP_STATE_UNREADABLE: _ClassVar[LookupState]
    LOOKUP_STATE_DEFERRED: _ClassVar[LookupState]

class ErrorReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ERROR_REASON_UNSPECIFIED: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_FIELD: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_POST: _ClassVar[ErrorReason]
    ERROR_REASON_INVALID_CURSOR: _ClassVar[ErrorReason]
    ERROR_REASON_UNAUTHENTICATED: _ClassVar[ErrorReason]
    ERROR_REASON_MISSING_SCOPE: _ClassVar[ErrorReason]
    ERROR_REASON_OTHER_TENANT: _ClassVar[ErrorReason]
    ERROR_REASON_OVERLOADED: _ClassVar[ErrorReason]
    ERROR_REASON_RATE_LIMITED: _ClassVar[ErrorReason]
    ERROR_REASON_BACKLOG_FULL: _ClassVar[ErrorReason]
    ERROR_REASON_SLOW_READER: _ClassVar[ErrorReason]
    ERROR_REASON_REQUEST_ID_REUSED: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_READY: _ClassVar[ErrorReason]
    ERROR_REASON_STOPPING: _ClassVar[ErrorReason]
    ERROR_REASON_NOT_ACCEPTED: _ClassVar[ErrorReason]
    ERROR_REASON_STORE_UNAVAILABLE: _ClassVar[ErrorReason]
    ERROR_REASON_INTERNAL: _ClassVar[ErrorReason]
    ERROR_REASON_NO_POLICIES: _ClassVar[ErrorReason]
    ERROR_REASON_TOO_LARGE: _ClassVar[ErrorReason]
    ERROR_REASON_SLOW_BODY: _ClassVar[ErrorReason]
LOOKUP_STATE_UNSPECIFIED: LookupState
LOOKUP_STATE_FOUND: LookupState
LOOKUP_STATE_PENDING: LookupState
LOOKUP_STATE_NOT_FOUND: LookupState
LOOKUP_STATE_UNREADABLE: LookupState
LOOKUP_STATE_DEFERRED: LookupState
ERROR_REASON_UNSPECIFIED: ErrorReason
ERROR_REASON_INVALID_FIELD: ErrorReason
ERROR_REASON_INVALID_POST: ErrorReason
ERROR_REASON_INVALID_CURSOR: ErrorReason
ERROR_REASON_UNAUTHENTICATED: ErrorReason
ERROR_REASON_MISSING_SCOPE: ErrorReason
ERROR_REASON_OTHER_TENANT: ErrorReason
ERROR_REASON_OVERLOADED: ErrorReason
ERROR_REASON_RATE_LIMITED: ErrorReason
ERROR_REASON_BACKLOG_FULL: ErrorReason
ERROR_REASON_SLOW_READER: ErrorReason
ERROR_REASON_REQUEST_ID_REUSED: ErrorReason
ERROR_REASON_NOT_READY: ErrorReason
ERROR_REASON_STOPPING: ErrorReason
ERROR_REASON_NOT_ACCEPTED: ErrorReason
ERROR_REASON_STORE_UNAVAILABLE: ErrorReason
ERROR_REASON_INTERNAL: ErrorReason
ERROR_REASON_NO_POLICIES: ErrorReason
ERROR_REASON_TOO_LARGE: ErrorReason
ERROR_REASON_SLOW_BODY: ErrorReason

class GetVerdictRequest(_message.Message):
    __slots__ = ("post_id", "content_digest", "consistency_token", "tenant")
    POST_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    post_id: str
    content_digest: str
    consistency_token: bytes
    tenant: str
    def __init__(self, post_id: _Optional[str] = ..., content_digest: _Optional[str] = ..., consistency_token: _Optional[bytes] = ..., tenant: _Optional[str] = ...) -> None: ...

class GetVerdictResponse(_message.Message):
    __slots__ = ("state", "verdict")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    state: LookupState
    verdict: _verdict_pb2.Verdict
    def __init__(self, state: _Optional[_Union[LookupState, str]] = ..., verdict: _Optional[_Union[_verdict_pb2.Verdict, _Mapping]] = ...) -> None: ...

class BatchGetVerdictsRequest(_message.Message):
    __slots__ = ("post_ids", "consistency_token", "tenant")
    POST_IDS_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    post_ids: _containers.RepeatedScalarFieldContainer[str]
    consistency_token: bytes
    tenant: str
    def __init__(self, post_ids: _Optional[_Iterable[str]] = ..., consistency_token: _Optional[bytes] = ..., tenant: _Optional[str] = ...) -> None: ...

class BatchGetVerdictsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[LookupResult]
    def __init__(self, results: _Optional[_Iterable[_Union[LookupResult, _Mapping]]] = ...) -> None: ...

class LookupResult(_message.Message):
    __slots__ = ("post_id", "state", "verdict")
    POST_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    post_id: str
    state: LookupState
    verdict: _verdict_pb2.Verdict
    def __init__(self, post_id: _Optional[str] = ..., state: _Optional[_Union[LookupState, str]] = ..., verdict: _Optional[_Union[_verdict_pb2.Verdict, _Mapping]] = ...) -> None: ...

class WaitVerdictRequest(_message.Message):
    __slots__ = ("post_id", "content_digest", "consistency_token", "tenant")
    POST_ID_FIELD_NUMBER: _ClassVar[int]
    CONTENT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    post_id: str
    content_digest: str
    consistency_token: bytes
    tenant: str
    def __init__(self, post_id: _Optional[str] = ..., content_digest: _Optional[str] = ..., consistency_token: _Optional[bytes] = ..., tenant: _Optional[str] = ...) -> None: ...

class WaitVerdictResponse(_message.Message):
    __slots__ = ("state", "verdict")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    state: LookupState
    verdict: _verdict_pb2.Verdict
    def __init__(self, state: _Optional[_Union[LookupState, str]] = ..., verdict: _Optional[_Union[_verdict_pb2.Verdict, _Mapping]] = ...) -> None: ...

class WatchVerdictsRequest(_message.Message):
    __slots__ = ("outcomes", "policy_ids", "consistency_token", "tenant")
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    POLICY_IDS_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedScalarFieldContainer[_verdict_pb2.Outcome]
    policy_ids: _containers.RepeatedScalarFieldContainer[str]
    consistency_token: bytes
    tenant: str
    def __init__(self, outcomes: _Optional[_Iterable[_Union[_verdict_pb2.Outcome, str]]] = ..., policy_ids: _Optional[_Iterable[str]] = ..., consistency_token: _Optional[bytes] = ..., tenant: _Optional[str] = ...) -> None: ...

class WatchVerdictsResponse(_message.Message):
    __slots__ = ("changes", "consistency_token")
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[Change]
    consistency_token: bytes
    def __init__(self, changes: _Optional[_Iterable[_Union[Change, _Mapping]]] = ..., consistency_token: _Optional[bytes] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("post_id", "verdict", "erasure")
    POST_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    ERASURE_FIELD_NUMBER: _ClassVar[int]
    post_id: str
    verdict: _verdict_pb2.Verdict
    erasure: Erasure
    def __init__(self, post_id: _Optional[str] = ..., verdict: _Optional[_Union[_verdict_pb2.Verdict, _Mapping]] = ..., erasure: _Optional[_Union[Erasure, _Mapping]] = ...) -> None: ...

class Erasure(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListVerdictsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "outcomes", "policy_ids", "decided_from", "decided_before", "tenant")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    POLICY_IDS_FIELD_NUMBER: _ClassVar[int]
    DECIDED_FROM_FIELD_NUMBER: _ClassVar[int]
    DECIDED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    outcomes: _containers.RepeatedScalarFieldContainer[_verdict_pb2.Outcome]
    policy_ids: _containers.RepeatedScalarFieldContainer[str]
    decided_from: _timestamp_pb2.Timestamp
    decided_before: _timestamp_pb2.Timestamp
    tenant: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., outcomes: _Optional[_Iterable[_Union[_verdict_pb2.Outcome, str]]] = ..., policy_ids: _Optional[_Iterable[str]] = ..., decided_from: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., decided_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., tenant: _Optional[str] = ...) -> None: ...

class ListVerdictsResponse(_message.Message):
    __slots__ = ("verdicts", "next_page_token")
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    verdicts: _containers.RepeatedCompositeFieldContainer[_verdict_pb2.Verdict]
    next_page_token: str
    def __init__(self, verdicts: _Optional[_Iterable[_Union[_verdict_pb2.Verdict, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ModeratePostRequest(_message.Message):
    __slots__ = ("post", "request_id")
    POST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    post: _post_pb2.Post
    request_id: str
    def __init__(self, post: _Optional[_Union[_post_pb2.Post, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ModeratePostResponse(_message.Message):
    __slots__ = ("state", "verdict", "source", "consistency_token")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_TOKEN_FIELD_NUMBER: _ClassVar[int]
    state: LookupState
    verdict: _verdict_pb2.Verdict
    source: _verdict_pb2.Source
    consistency_token: bytes
    def __init__(self, state: _Optional[_Union[LookupState, str]] = ..., verdict: _Optional[_Union[_verdict_pb2.Verdict, _Mapping]] = ..., source: _Optional[_Union[_verdict_pb2.Source, _Mapping]] = ..., consistency_token: _Optional[bytes] = ...) -> None: ...

class ListPoliciesRequest(_message.Message):
    __slots__ = ("page_token",)
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_token: str
    def __init__(self, page_token: _Optional[str] = ...) -> None: ...

class ListPoliciesResponse(_message.Message):
    __slots__ = ("policies", "digest", "next_page_token", "read_at")
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    READ_AT_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[_policy_pb2.Policy]
    digest: str
    next_page_token: str
    read_at: _timestamp_pb2.Timestamp
    def __init__(self, policies: _Optional[_Iterable[_Union[_policy_pb2.Policy, _Mapping]]] = ..., digest: _Optional[str] = ..., next_page_token: _Optional[str] = ..., read_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Position(_message.Message):
    __slots__ = ("posts", "verdicts", "posts_topic_id", "verdicts_topic_id")
    class PostsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    class VerdictsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    POSTS_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    POSTS_TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    posts: _containers.ScalarMap[int, int]
    verdicts: _containers.ScalarMap[int, int]
    posts_topic_id: str
    verdicts_topic_id: str
    def __init__(self, posts: _Optional[_Mapping[int, int]] = ..., verdicts: _Optional[_Mapping[int, int]] = ..., posts_topic_id: _Optional[str] = ..., verdicts_topic_id: _Optional[str] = ...) -> None: ...
