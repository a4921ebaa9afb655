# SPDX-License-Identifier: Apache-2.0
"""The Python client of attnserve: ``Client`` for blocking code and ``AsyncClient`` for asyncio, with the same methods.

This package needs grpcio, grpcio-status, protobuf and numpy; its command line (``cli``), plots and ``demo`` need the extra ``cli``,
and ``evaluation`` the extra ``evaluate``. It imports neither the server nor the exporter.
"""

from importlib.metadata import PackageNotFoundError, version

from attnserve_client.aio_client import AsyncClient
from attnserve_client.client import Client
from attnserve_client.errors import (
    AnswersUnread,
    AttnserveError,
    Cancelled,
    ClientClosed,
    DeadlineExceeded,
    DeadlineUnreachable,
    ExecutionFailed,
    ExtraMissing,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    PermissionDenied,
    RateLimited,
    SequenceTooLong,
    ServerUnreachable,
    ShuttingDown,
    TlsFailed,
    Unauthenticated,
    WorkerLost,
)
from attnserve_client.generation_types import Generation, GenerationAttention
from attnserve_client.options import DecodeOptions
from attnserve_client.pass_types import (
    BlockAttention,
    ClassArea,
    Classification,
    ClassProbability,
    PairwiseMap,
    PassTimings,
    Segmentation,
    SegmentAttention,
)
from attnserve_client.retry import RetryPolicy
from attnserve_client.security import tls_credentials
from attnserve_client.types import (
    Caption,
    CaptionDelta,
    FinishReason,
    Hypothesis,
    ImageGrid,
    Model,
    ModelDetails,
    ModelState,
    Piece,
    ScoreNormalization,
    Task,
    Timings,
    Translation,
    TranslationDelta,
    WordMap,
)
from attnserve_client.video_types import PositionMap, SampledFrame, VideoClassification

try:
    __version__ = version("attnserve")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "AnswersUnread",
    "AsyncClient",
    "AttnserveError",
    "BlockAttention",
    "Cancelled",
    "Caption",
    "CaptionDelta",
    "ClassArea",
    "ClassProbability",
    "Classification",
    "Client",
    "ClientClosed",
    "DeadlineExceeded",
    "DeadlineUnreachable",
    "DecodeOptions",
    "ExecutionFailed",
    "ExtraMissing",
    "FinishReason",
    "Generation",
    "GenerationAttention",
    "Hypothesis",
    "ImageGrid",
    "InvalidRequest",
    "Model",
    "ModelDetails",
    "ModelNotFound",
    "ModelNotReady",
    "ModelState",
    "Overloaded",
    "PairwiseMap",
    "PassTimings",
    "PermissionDenied",
    "Piece",
    "PositionMap",
    "RateLimited",
    "RetryPolicy",
    "SampledFrame",
    "ScoreNormalization",
    "SegmentAttention",
    "Segmentation",
    "SequenceTooLong",
    "ServerUnreachable",
    "ShuttingDown",
    "Task",
    "Timings",
    "TlsFailed",
    "Translation",
    "TranslationDelta",
    "Unauthenticated",
    "VideoClassification",
    "WordMap",
    "WorkerLost",
    "tls_credentials",
]
