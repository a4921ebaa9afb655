from attnserve.v1 import single_pass_pb2 as _single_pass_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClassMapFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CLASS_MAP_FORMAT_UNSPECIFIED: _ClassVar[ClassMapFormat]
    CLASS_MAP_FORMAT_PNG: _ClassVar[ClassMapFormat]
    CLASS_MAP_FORMAT_RUN_LENGTHS: _ClassVar[ClassMapFormat]
    CLASS_MAP_FORMAT_RAW: _ClassVar[ClassMapFormat]
CLASS_MAP_FORMAT_UNSPECIFIED: ClassMapFormat
CLASS_MAP_FORMAT_PNG: ClassMapFormat
CLASS_MAP_FORMAT_RUN_LENGTHS: ClassMapFormat
CLASS_MAP_FORMAT_RAW: ClassMapFormat

class SegmentRequest(_message.Message):
    __slots__ = ("image", "model", "version", "format", "return_unary", "queries", "priority")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    RETURN_UNARY_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    version: str
    format: ClassMapFormat
    return_unary: bool
    queries: _containers.RepeatedCompositeFieldContainer[Pixel]
    priority: int
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., format: _Optional[_Union[ClassMapFormat, str]] = ..., return_unary: _Optional[bool] = ..., queries: _Optional[_Iterable[_Union[Pixel, _Mapping]]] = ..., priority: _Optional[int] = ...) -> None: ...

class Pixel(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: int
    y: int
    def __init__(self, x: _Optional[int] = ..., y: _Optional[int] = ...) -> None: ...

class SegmentResponse(_message.Message):
    __slots__ = ("map", "classes", "attention", "model", "version", "timings")
    MAP_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    map: ClassMap
    classes: _containers.RepeatedCompositeFieldContainer[ClassArea]
    attention: SegmentAttention
    model: str
    version: str
    timings: _single_pass_pb2.PassTimings
    def __init__(self, map: _Optional[_Union[ClassMap, _Mapping]] = ..., classes: _Optional[_Iterable[_Union[ClassArea, _Mapping]]] = ..., attention: _Optional[_Union[SegmentAttention, _Mapping]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., timings: _Optional[_Union[_single_pass_pb2.PassTimings, _Mapping]] = ...) -> None: ...

class ClassMap(_message.Message):
    __slots__ = ("width", "height", "png", "runs", "raw")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    png: bytes
    runs: ClassRuns
    raw: bytes
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., png: _Optional[bytes] = ..., runs: _Optional[_Union[ClassRuns, _Mapping]] = ..., raw: _Optional[bytes] = ...) -> None: ...

class ClassRuns(_message.Message):
    __slots__ = ("classes", "lengths")
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    classes: _containers.RepeatedScalarFieldContainer[int]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, classes: _Optional[_Iterable[int]] = ..., lengths: _Optional[_Iterable[int]] = ...) -> None: ...

class ClassArea(_message.Message):
    __slots__ = ("index", "name", "colour", "share", "confidence")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    COLOUR_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    index: int
    name: str
    colour: int
    share: float
    confidence: float
    def __init__(self, index: _Optional[int] = ..., name: _Optional[str] = ..., colour: _Optional[int] = ..., share: _Optional[float] = ..., confidence: _Optional[float] = ...) -> None: ...

class SegmentAttention(_message.Message):
    __slots__ = ("rows", "columns", "cell_width", "cell_height", "unary", "pairwise")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    CELL_WIDTH_FIELD_NUMBER: _ClassVar[int]
    CELL_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    UNARY_FIELD_NUMBER: _ClassVar[int]
    PAIRWISE_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    cell_width: float
    cell_height: float
    unary: _containers.RepeatedScalarFieldContainer[float]
    pairwise: _containers.RepeatedCompositeFieldContainer[PairwiseMap]
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., cell_width: _Optional[float] = ..., cell_height: _Optional[float] = ..., unary: _Optional[_Iterable[float]] = ..., pairwise: _Optional[_Iterable[_Union[PairwiseMap, _Mapping]]] = ...) -> None: ...

class PairwiseMap(_message.Message):
    __slots__ = ("query", "cell", "weights")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    query: Pixel
    cell: int
    weights: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, query: _Optional[_Union[Pixel, _Mapping]] = ..., cell: _Optional[int] = ..., weights: _Optional[_Iterable[float]] = ...) -> None: ...
