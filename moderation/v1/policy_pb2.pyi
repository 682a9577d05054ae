from moderation.v1 import verdict_pb2 as _verdict_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PolicyStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_STATUS_UNSPECIFIED: _ClassVar[PolicyStatus]
    POLICY_STATUS_DRAFT: _ClassVar[PolicyStatus]
    POLICY_STATUS_SHADOW: _ClassVar[PolicyStatus]
    POLICY_STATUS_LIVE: _ClassVar[PolicyStatus]
    POLICY_STATUS_RETIRED: _ClassVar[PolicyStatus]
POLICY_STATUS_UNSPECIFIED: PolicyStatus
POLICY_STATUS_DRAFT: PolicyStatus
POLICY_STATUS_SHADOW: PolicyStatus
POLICY_STATUS_LIVE: PolicyStatus
POLICY_STATUS_RETIRED: PolicyStatus

class Policy(_message.Message):
    __slots__ = ("id", "version", "digest", "title", "status", "severity", "thresholds", "on_error", "prompt")
    ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    ON_ERROR_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    id: str
    version: int
    digest: str
    title: str
    status: PolicyStatus
    severity: _verdict_pb2.Severity
    thresholds: _verdict_pb2.Thresholds
    on_error: _verdict_pb2.Outcome
    prompt: str
    def __init__(self, id: _Optional[str] = ..., version: _Optional[int] = ..., digest: _Optional[str] = ..., title: _Optional[str] = ..., status: _Optional[_Union[PolicyStatus, str]] = ..., severity: _Optional[_Union[_verdict_pb2.Severity, str]] = ..., thresholds: _Optional[_Union[_verdict_pb2.Thresholds, _Mapping]] = ..., on_error: _Optional[_Union[_verdict_pb2.Outcome, str]] = ..., prompt: _Optional[str] = ...) -> None: ...
