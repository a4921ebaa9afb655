from attnserve.v1 import decoding_pb2 as _decoding_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TranslateRequest(_message.Message):
    __slots__ = ("text", "model", "version", "options", "split_sentences", "priority")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SPLIT_SENTENCES_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    text: str
    model: str
    version: str
    options: _decoding_pb2.DecodeOptions
    split_sentences: bool
    priority: int
    def __init__(self, text: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., options: _Optional[_Union[_decoding_pb2.DecodeOptions, _Mapping]] = ..., split_sentences: _Optional[bool] = ..., priority: _Optional[int] = ...) -> None: ...

class TranslateResponse(_message.Message):
    __slots__ = ("hypotheses", "source_pieces", "model", "version", "timings")
    HYPOTHESES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PIECES_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    hypotheses: _containers.RepeatedCompositeFieldContainer[_decoding_pb2.Hypothesis]
    source_pieces: _containers.RepeatedCompositeFieldContainer[_decoding_pb2.Piece]
    model: str
    version: str
    timings: _decoding_pb2.Timings
    def __init__(self, hypotheses: _Optional[_Iterable[_Union[_decoding_pb2.Hypothesis, _Mapping]]] = ..., source_pieces: _Optional[_Iterable[_Union[_decoding_pb2.Piece, _Mapping]]] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., timings: _Optional[_Union[_decoding_pb2.Timings, _Mapping]] = ...) -> None: ...

class TranslateStreamRequest(_message.Message):
    __slots__ = ("text", "model", "version", "options", "split_sentences", "priority")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SPLIT_SENTENCES_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    text: str
    model: str
    version: str
    options: _decoding_pb2.DecodeOptions
    split_sentences: bool
    priority: int
    def __init__(self, text: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., options: _Optional[_Union[_decoding_pb2.DecodeOptions, _Mapping]] = ..., split_sentences: _Optional[bool] = ..., priority: _Optional[int] = ...) -> None: ...

class TranslateStreamResponse(_message.Message):
    __slots__ = ("delta", "result")
    DELTA_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    delta: TranslationDelta
    result: TranslateResponse
    def __init__(self, delta: _Optional[_Union[TranslationDelta, _Mapping]] = ..., result: _Optional[_Union[TranslateResponse, _Mapping]] = ...) -> None: ...

class TranslationDelta(_message.Message):
    __slots__ = ("text", "pieces")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    text: str
    pieces: _containers.RepeatedCompositeFieldContainer[_decoding_pb2.Piece]
    def __init__(self, text: _Optional[str] = ..., pieces: _Optional[_Iterable[_Union[_decoding_pb2.Piece, _Mapping]]] = ...) -> None: ...
