import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_ALLOW: _ClassVar[Outcome]
    OUTCOME_REVIEW: _ClassVar[Outcome]
    OUTCOME_REMOVE: _ClassVar[Outcome]

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATUS_UNSPECIFIED: _ClassVar[Status]
    STATUS_FINAL: _ClassVar[Status]
    STATUS_DEGRADED: _ClassVar[Status]
    STATUS_UNDETERMINED: _ClassVar[Status]

class Origin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORIGIN_UNSPECIFIED: _ClassVar[Origin]
    ORIGIN_MODEL: _ClassVar[Origin]
    ORIGIN_CACHE: _ClassVar[Origin]
    ORIGIN_HASH: _ClassVar[Origin]
    ORIGIN_HUMAN: _ClassVar[Origin]
    ORIGIN_NONE: _ClassVar[Origin]

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_LIVE: _ClassVar[Mode]
    MODE_SHADOW: _ClassVar[Mode]
    MODE_CANARY: _ClassVar[Mode]

class Severity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEVERITY_UNSPECIFIED: _ClassVar[Severity]
    SEVERITY_NONE: _ClassVar[Severity]
    SEVERITY_LOW: _ClassVar[Severity]
    SEVERITY_MEDIUM: _ClassVar[Severity]
    SEVERITY_HIGH: _ClassVar[Severity]
    SEVERITY_CRITICAL: _ClassVar[Severity]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_ALLOW: Outcome
OUTCOME_REVIEW: Outcome
OUTCOME_REMOVE: Outcome
STATUS_UNSPECIFIED: Status
STATUS_FINAL: Status
STATUS_DEGRADED: Status
STATUS_UNDETERMINED: Status
ORIGIN_UNSPECIFIED: Origin
ORIGIN_MODEL: Origin
ORIGIN_CACHE: Origin
ORIGIN_HASH: Origin
ORIGIN_HUMAN: Origin
ORIGIN_NONE: Origin
MODE_UNSPECIFIED: Mode
MODE_LIVE: Mode
MODE_SHADOW: Mode
MODE_CANARY: Mode
SEVERITY_UNSPECIFIED: Severity
SEVERITY_NONE: Severity
SEVERITY_LOW: Severity
SEVERITY_MEDIUM: Severity
SEVERITY_HIGH: Severity
SEVERITY_CRITICAL: Severity

class Verdict(_message.Message):
    __slots__ = ("post_id", "tenant", "content_digest", "policy_set", "model", "engine_version", "outcome", "status", "origin", "deciding_policy", "severity", "findings", "reason", "source", "timings", "trace_id", "decided_at", "problems", "decision_state")
    POST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    POLICY_SET_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENGINE_VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    DECIDING_POLICY_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    DECISION_STATE_FIELD_NUMBER: _ClassVar[int]
    post_id: str
    tenant: str
    content_digest: str
    policy_set: PolicySet
    model: Model
    engine_version: str
    outcome: Outcome
    status: Status
    origin: Origin
    deciding_policy: str
    severity: Severity
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    reason: str
    source: Source
    timings: Timings
    trace_id: str
    decided_at: _timestamp_pb2.Timestamp
    problems: _containers.RepeatedCompositeFieldContainer[Problem]
    decision_state: str
    def __init__(self, post_id: _Optional[str] = ..., tenant: _Optional[str] = ..., content_digest: _Optional[str] = ..., policy_set: _Optional[_Union[PolicySet, _Mapping]] = ..., model: _Optional[_Union[Model, _Mapping]] = ..., engine_version: _Optional[str] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., status: _Optional[_Union[Status, str]] = ..., origin: _Optional[_Union[Origin, str]] = ..., deciding_policy: _Optional[str] = ..., severity: _Optional[_Union[Severity, str]] = ..., findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., reason: _Optional[str] = ..., source: _Optional[_Union[Source, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., trace_id: _Optional[str] = ..., decided_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., problems: _Optional[_Iterable[_Union[Problem, _Mapping]]] = ..., decision_state: _Optional[str] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("reason", "path", "detail")
    REASON_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    reason: str
    path: str
    detail: str
    def __init__(self, reason: _Optional[str] = ..., path: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("policy_id", "policy_version", "probability", "margin", "mass", "thresholds", "outcome", "status", "reason", "windows_scored", "mode", "severity", "path", "windows_answered", "silence", "yes_without_probability", "score_digest", "certificate", "held")
    POLICY_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    MASS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_SCORED_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_ANSWERED_FIELD_NUMBER: _ClassVar[int]
    SILENCE_FIELD_NUMBER: _ClassVar[int]
    YES_WITHOUT_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    SCORE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    policy_id: str
    policy_version: int
    probability: float
    margin: float
    mass: float
    thresholds: Thresholds
    outcome: Outcome
    status: Status
    reason: str
    windows_scored: int
    mode: Mode
    severity: Severity
    path: str
    windows_answered: int
    silence: str
    yes_without_probability: bool
    score_digest: str
    certificate: str
    held: str
    def __init__(self, policy_id: _Optional[str] = ..., policy_version: _Optional[int] = ..., probability: _Optional[float] = ..., margin: _Optional[float] = ..., mass: _Optional[float] = ..., thresholds: _Optional[_Union[Thresholds, _Mapping]] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., status: _Optional[_Union[Status, str]] = ..., reason: _Optional[str] = ..., windows_scored: _Optional[int] = ..., mode: _Optional[_Union[Mode, str]] = ..., severity: _Optional[_Union[Severity, str]] = ..., path: _Optional[str] = ..., windows_answered: _Optional[int] = ..., silence: _Optional[str] = ..., yes_without_probability: _Optional[bool] = ..., score_digest: _Optional[str] = ..., certificate: _Optional[str] = ..., held: _Optional[str] = ...) -> None: ...

class Thresholds(_message.Message):
    __slots__ = ("review", "remove", "mass")
    REVIEW_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    MASS_FIELD_NUMBER: _ClassVar[int]
    review: float
    remove: float
    mass: float
    def __init__(self, review: _Optional[float] = ..., remove: _Optional[float] = ..., mass: _Optional[float] = ...) -> None: ...

class PolicySet(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "revision", "digest", "alias")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: str
    digest: str
    alias: bool
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[str] = ..., digest: _Optional[str] = ..., alias: _Optional[bool] = ...) -> None: ...

class Source(_message.Message):
    __slots__ = ("topic", "partition", "offset", "timestamp", "topic_id")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    TOPIC_ID_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    offset: int
    timestamp: _timestamp_pb2.Timestamp
    topic_id: str
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ..., timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., topic_id: _Optional[str] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue", "fetch", "decode", "encode", "batch_wait", "model")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    BATCH_WAIT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    queue: float
    fetch: float
    decode: float
    encode: float
    batch_wait: float
    model: float
    def __init__(self, queue: _Optional[float] = ..., fetch: _Optional[float] = ..., decode: _Optional[float] = ..., encode: _Optional[float] = ..., batch_wait: _Optional[float] = ..., model: _Optional[float] = ...) -> None: ...
