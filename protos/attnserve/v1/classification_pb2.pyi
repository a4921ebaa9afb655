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

class ClassifyVideoRequest(_message.Message):
    __slots__ = ("video", "frames", "model", "version", "top_k", "queries", "return_pictures", "priority")
    VIDEO_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    RETURN_PICTURES_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    video: bytes
    frames: _containers.RepeatedScalarFieldContainer[bytes]
    model: str
    version: str
    top_k: int
    queries: _containers.RepeatedCompositeFieldContainer[ClipPosition]
    return_pictures: bool
    priority: int
    def __init__(self, video: _Optional[bytes] = ..., frames: _Optional[_Iterable[bytes]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., top_k: _Optional[int] = ..., queries: _Optional[_Iterable[_Union[ClipPosition, _Mapping]]] = ..., return_pictures: _Optional[bool] = ..., priority: _Optional[int] = ...) -> None: ...

class ClipPosition(_message.Message):
    __slots__ = ("frame", "x", "y")
    FRAME_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    frame: int
    x: float
    y: float
    def __init__(self, frame: _Optional[int] = ..., x: _Optional[float] = ..., y: _Optional[float] = ...) -> None: ...

class ClassifyVideoResponse(_message.Message):
    __slots__ = ("classes", "frames", "clip_frames", "attention", "model", "version", "timings")
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    CLIP_FRAMES_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedCompositeFieldContainer[ClassProbability]
    frames: _containers.RepeatedCompositeFieldContainer[SampledFrame]
    clip_frames: int
    attention: ClipAttention
    model: str
    version: str
    timings: _single_pass_pb2.PassTimings
    def __init__(self, classes: _Optional[_Iterable[_Union[ClassProbability, _Mapping]]] = ..., frames: _Optional[_Iterable[_Union[SampledFrame, _Mapping]]] = ..., clip_frames: _Optional[int] = ..., attention: _Optional[_Union[ClipAttention, _Mapping]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., timings: _Optional[_Union[_single_pass_pb2.PassTimings, _Mapping]] = ...) -> None: ...

class SampledFrame(_message.Message):
    __slots__ = ("index", "seconds", "time", "picture")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    index: int
    seconds: float
    time: int
    picture: bytes
    def __init__(self, index: _Optional[int] = ..., seconds: _Optional[float] = ..., time: _Optional[int] = ..., picture: _Optional[bytes] = ...) -> None: ...

class ClipAttention(_message.Message):
    __slots__ = ("times", "rows", "columns", "maps")
    TIMES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    times: int
    rows: int
    columns: int
    maps: _containers.RepeatedCompositeFieldContainer[PositionMap]
    def __init__(self, times: _Optional[int] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., maps: _Optional[_Iterable[_Union[PositionMap, _Mapping]]] = ...) -> None: ...

class PositionMap(_message.Message):
    __slots__ = ("query", "cell", "weights")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    query: ClipPosition
    cell: int
    weights: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, query: _Optional[_Union[ClipPosition, _Mapping]] = ..., cell: _Optional[int] = ..., weights: _Optional[_Iterable[float]] = ...) -> None: ...
