from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class PassTimings(_message.Message):
    __slots__ = ("preparation_seconds", "queue_seconds", "run_seconds", "total_seconds", "batch_size")
    PREPARATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RUN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    preparation_seconds: float
    queue_seconds: float
    run_seconds: float
    total_seconds: float
    batch_size: int
    def __init__(self, preparation_seconds: _Optional[float] = ..., queue_seconds: _Optional[float] = ..., run_seconds: _Optional[float] = ..., total_seconds: _Optional[float] = ..., batch_size: _Optional[int] = ...) -> None: ...
