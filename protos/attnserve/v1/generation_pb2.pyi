from attnserve.v1 import single_pass_pb2 as _single_pass_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GenerationForm(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GENERATION_FORM_UNSPECIFIED: _ClassVar[GenerationForm]
    GENERATION_FORM_IMAGES: _ClassVar[GenerationForm]
    GENERATION_FORM_GRID: _ClassVar[GenerationForm]
GENERATION_FORM_UNSPECIFIED: GenerationForm
GENERATION_FORM_IMAGES: GenerationForm
GENERATION_FORM_GRID: GenerationForm

class GenerateImageRequest(_message.Message):
    __slots__ = ("class_name", "model", "version", "count", "seed", "form", "attention_at", "priority")
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_AT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    class_name: str
    model: str
    version: str
    count: int
    seed: int
    form: GenerationForm
    attention_at: GeneratedPixel
    priority: int
    def __init__(self, class_name: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., count: _Optional[int] = ..., seed: _Optional[int] = ..., form: _Optional[_Union[GenerationForm, str]] = ..., attention_at: _Optional[_Union[GeneratedPixel, _Mapping]] = ..., priority: _Optional[int] = ...) -> None: ...

class GeneratedPixel(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: int
    y: int
    def __init__(self, x: _Optional[int] = ..., y: _Optional[int] = ...) -> None: ...

class GenerateImageResponse(_message.Message):
    __slots__ = ("images", "width", "height", "count", "columns", "class_index", "seed", "attention", "model", "version", "timings")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    CLASS_INDEX_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedScalarFieldContainer[bytes]
    width: int
    height: int
    count: int
    columns: int
    class_index: int
    seed: int
    attention: GenerationAttention
    model: str
    version: str
    timings: _single_pass_pb2.PassTimings
    def __init__(self, images: _Optional[_Iterable[bytes]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., count: _Optional[int] = ..., columns: _Optional[int] = ..., class_index: _Optional[int] = ..., seed: _Optional[int] = ..., attention: _Optional[_Union[GenerationAttention, _Mapping]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., timings: _Optional[_Union[_single_pass_pb2.PassTimings, _Mapping]] = ...) -> None: ...

class GenerationAttention(_message.Message):
    __slots__ = ("rows", "columns", "cell", "maps")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    cell: int
    maps: _containers.RepeatedCompositeFieldContainer[GenerationMap]
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., cell: _Optional[int] = ..., maps: _Optional[_Iterable[_Union[GenerationMap, _Mapping]]] = ...) -> None: ...

class GenerationMap(_message.Message):
    __slots__ = ("weights",)
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    weights: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, weights: _Optional[_Iterable[float]] = ...) -> None: ...
