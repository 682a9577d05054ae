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
LOOKUP_STATE_UNSPECIFIED: LookupState
LOOKUP_STATE_FOUND: LookupState
LOOKUP_STATE_PENDING: LookupState
LOOKUP_STATE_NOT_FOUND: LookupState
LOOKUP_STATE_UNREADABLE: LookupState

class GetVerdictRequest(_message.Message):
    __slots__ = ("post_id",)
    POST_ID_FIELD_NUMBER: _ClassVar[int]
    post_id: str
    def __init__(self, post_id: _Optional[str] = ...) -> None: ...

class GetVerdictResponse(_message.Message):
    __slots__ = ("state", "verdict")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    state: LookupState
    verdict: _verdict_pb2.Verdict
    def __init__(self, state: _Optional[_Union[LookupState, str]] = ..., verdict: _Optional[_Union[_verdict_pb2.Verdict, _Mapping]] = ...) -> None: ...

class BatchGetVerdictsRequest(_message.Message):
    __slots__ = ("post_ids",)
    POST_IDS_FIELD_NUMBER: _ClassVar[int]
    post_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, post_ids: _Optional[_Iterable[str]] = ...) -> None: ...

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

class ModeratePostRequest(_message.Message):
    __slots__ = ("post",)
    POST_FIELD_NUMBER: _ClassVar[int]
    post: _post_pb2.Post
    def __init__(self, post: _Optional[_Union[_post_pb2.Post, _Mapping]] = ...) -> None: ...

class ModeratePostResponse(_message.Message):
    __slots__ = ("state", "verdict", "source")
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    state: LookupState
    verdict: _verdict_pb2.Verdict
    source: _verdict_pb2.Source
    def __init__(self, state: _Optional[_Union[LookupState, str]] = ..., verdict: _Optional[_Union[_verdict_pb2.Verdict, _Mapping]] = ..., source: _Optional[_Union[_verdict_pb2.Source, _Mapping]] = ...) -> None: ...
