from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Post(_message.Message):
    __slots__ = ("id", "text", "images", "tenant", "language", "surface")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    SURFACE_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: str
    images: _containers.RepeatedCompositeFieldContainer[Image]
    tenant: str
    language: str
    surface: str
    def __init__(self, id: _Optional[str] = ..., text: _Optional[str] = ..., images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ..., tenant: _Optional[str] = ..., language: _Optional[str] = ..., surface: _Optional[str] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("data", "uri", "alt")
    DATA_FIELD_NUMBER: _ClassVar[int]
    URI_FIELD_NUMBER: _ClassVar[int]
    ALT_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    uri: str
    alt: str
    def __init__(self, data: _Optional[bytes] = ..., uri: _Optional[str] = ..., alt: _Optional[str] = ...) -> None: ...
