from attnserve.v1 import decoding_pb2 as _decoding_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CaptionRequest(_message.Message):
    __slots__ = ("image", "model", "version", "options", "priority")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    version: str
    options: _decoding_pb2.DecodeOptions
    priority: int
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., options: _Optional[_Union[_decoding_pb2.DecodeOptions, _Mapping]] = ..., priority: _Optional[int] = ...) -> None: ...

class CaptionResponse(_message.Message):
    __slots__ = ("hypotheses", "grid", "model", "version", "timings")
    HYPOTHESES_FIELD_NUMBER: _ClassVar[int]
    GRID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    hypotheses: _containers.RepeatedCompositeFieldContainer[_decoding_pb2.Hypothesis]
    grid: ImageGrid
    model: str
    version: str
    timings: _decoding_pb2.Timings
    def __init__(self, hypotheses: _Optional[_Iterable[_Union[_decoding_pb2.Hypothesis, _Mapping]]] = ..., grid: _Optional[_Union[ImageGrid, _Mapping]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., timings: _Optional[_Union[_decoding_pb2.Timings, _Mapping]] = ...) -> None: ...

class ImageGrid(_message.Message):
    __slots__ = ("rows", "columns", "image_width", "image_height")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    IMAGE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    rows: int
    columns: int
    image_width: int
    image_height: int
    def __init__(self, rows: _Optional[int] = ..., columns: _Optional[int] = ..., image_width: _Optional[int] = ..., image_height: _Optional[int] = ...) -> None: ...

class CaptionStreamRequest(_message.Message):
    __slots__ = ("image", "model", "version", "options", "priority")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    model: str
    version: str
    options: _decoding_pb2.DecodeOptions
    priority: int
    def __init__(self, image: _Optional[bytes] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., options: _Optional[_Union[_decoding_pb2.DecodeOptions, _Mapping]] = ..., priority: _Optional[int] = ...) -> None: ...

class CaptionStreamResponse(_message.Message):
    __slots__ = ("delta", "result")
    DELTA_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    delta: CaptionDelta
    result: CaptionResponse
    def __init__(self, delta: _Optional[_Union[CaptionDelta, _Mapping]] = ..., result: _Optional[_Union[CaptionResponse, _Mapping]] = ...) -> None: ...

class CaptionDelta(_message.Message):
    __slots__ = ("text", "pieces")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    text: str
    pieces: _containers.RepeatedCompositeFieldContainer[_decoding_pb2.Piece]
    def __init__(self, text: _Optional[str] = ..., pieces: _Optional[_Iterable[_Union[_decoding_pb2.Piece, _Mapping]]] = ...) -> None: ...
