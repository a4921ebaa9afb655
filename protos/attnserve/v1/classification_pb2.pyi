from attnserve.v1 import single_pass_pb2 as _single_pass_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClassifyImageRequest(_message.Message):
    __slots__ = ("image", "model", "version", "top_k", "return_attention", "priority")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    RETURN_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    version: str
    top_k: int
    return_attention: bool
    priority: int
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., top_k: _Optional[int] = ..., return_attention: _Optional[bool] = ..., priority: _Optional[int] = ...) -> None: ...

class ClassifyImageResponse(_message.Message):
    __slots__ = ("classes", "attention", "model", "version", "timings")
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[ClassProbability]
    attention: _containers.RepeatedCompositeFieldContainer[BlockAttention]
    model: str
    version: str
    timings: _single_pass_pb2.PassTimings
    def __init__(self, classes: _Optional[_Iterable[_Union[ClassProbability, _Mapping]]] = ..., attention: _Optional[_Iterable[_Union[BlockAttention, _Mapping]]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., timings: _Optional[_Union[_single_pass_pb2.PassTimings, _Mapping]] = ...) -> None: ...

class ClassProbability(_message.Message):
    __slots__ = ("index", "name", "probability")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    index: int
    name: str
    probability: float
    def __init__(self, index: _Optional[int] = ..., name: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class BlockAttention(_message.Message):
    __slots__ = ("block", "channels", "rows", "columns", "spatial")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    SPATIAL_FIELD_NUMBER: _ClassVar[int]
    block: str
    channels: _containers.RepeatedScalarFieldContainer[float]
    rows: int
    columns: int
    spatial: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, block: _Optional[str] = ..., channels: _Optional[_Iterable[float]] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., spatial: _Optional[_Iterable[float]] = ...) -> None: ...
