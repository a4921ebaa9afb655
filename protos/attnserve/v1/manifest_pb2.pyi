from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    TASK_TRANSLATION: _ClassVar[Task]
    TASK_CAPTION: _ClassVar[Task]
    TASK_SEGMENTATION: _ClassVar[Task]
    TASK_CLASSIFICATION: _ClassVar[Task]
    TASK_VIDEO_CLASSIFICATION: _ClassVar[Task]
    TASK_GENERATION: _ClassVar[Task]

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_INT32: _ClassVar[DataType]
    DATA_TYPE_INT64: _ClassVar[DataType]
    DATA_TYPE_UINT8: _ClassVar[DataType]

class Device(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEVICE_UNSPECIFIED: _ClassVar[Device]
    DEVICE_CPU: _ClassVar[Device]
    DEVICE_CUDA: _ClassVar[Device]

class Scope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCOPE_UNSPECIFIED: _ClassVar[Scope]
    SCOPE_REQUEST: _ClassVar[Scope]
    SCOPE_HYPOTHESIS: _ClassVar[Scope]

class FrameSampling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRAME_SAMPLING_UNSPECIFIED: _ClassVar[FrameSampling]
    FRAME_SAMPLING_EVEN: _ClassVar[FrameSampling]

class Fit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FIT_UNSPECIFIED: _ClassVar[Fit]
    FIT_STRETCH: _ClassVar[Fit]
    FIT_PAD: _ClassVar[Fit]

class AttentionRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ATTENTION_ROLE_UNSPECIFIED: _ClassVar[AttentionRole]
    ATTENTION_ROLE_UNARY: _ClassVar[AttentionRole]
    ATTENTION_ROLE_PAIRWISE: _ClassVar[AttentionRole]
    ATTENTION_ROLE_CHANNEL: _ClassVar[AttentionRole]
    ATTENTION_ROLE_SPATIAL: _ClassVar[AttentionRole]
TASK_UNSPECIFIED: Task
TASK_TRANSLATION: Task
TASK_CAPTION: Task
TASK_SEGMENTATION: Task
TASK_CLASSIFICATION: Task
TASK_VIDEO_CLASSIFICATION: Task
TASK_GENERATION: Task
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_INT32: DataType
DATA_TYPE_INT64: DataType
DATA_TYPE_UINT8: DataType
DEVICE_UNSPECIFIED: Device
DEVICE_CPU: Device
DEVICE_CUDA: Device
SCOPE_UNSPECIFIED: Scope
SCOPE_REQUEST: Scope
SCOPE_HYPOTHESIS: Scope
FRAME_SAMPLING_UNSPECIFIED: FrameSampling
FRAME_SAMPLING_EVEN: FrameSampling
FIT_UNSPECIFIED: Fit
FIT_STRETCH: Fit
FIT_PAD: Fit
ATTENTION_ROLE_UNSPECIFIED: AttentionRole
ATTENTION_ROLE_UNARY: AttentionRole
ATTENTION_ROLE_PAIRWISE: AttentionRole
ATTENTION_ROLE_CHANNEL: AttentionRole
ATTENTION_ROLE_SPATIAL: AttentionRole

class Manifest(_message.Message):
    __slots__ = ("format_version", "model_id", "version", "task", "architecture", "paper", "description", "limits", "vocabulary", "states", "attention", "variants", "files", "producers", "data", "quality", "parity", "image", "golden_file", "requires", "single_pass")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    PAPER_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    PRODUCERS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    GOLDEN_FILE_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    SINGLE_PASS_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    model_id: str
    version: str
    task: Task
    architecture: str
    paper: Paper
    description: str
    limits: Limits
    vocabulary: Vocabulary
    states: _containers.RepeatedCompositeFieldContainer[State]
    attention: AttentionOutput
    variants: _containers.RepeatedCompositeFieldContainer[Variant]
    files: _containers.RepeatedCompositeFieldContainer[File]
    producers: _containers.RepeatedCompositeFieldContainer[Producer]
    data: Data
    quality: _containers.RepeatedCompositeFieldContainer[Quality]
    parity: ParityReport
    image: ImageInput
    golden_file: str
    requires: _containers.RepeatedScalarFieldContainer[str]
    single_pass: SinglePass
    def __init__(self, format_version: _Optional[int] = ..., model_id: _Optional[str] = ..., version: _Optional[str] = ..., task: _Optional[_Union[Task, str]] = ..., architecture: _Optional[str] = ..., paper: _Optional[_Union[Paper, _Mapping]] = ..., description: _Optional[str] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., vocabulary: _Optional[_Union[Vocabulary, _Mapping]] = ..., states: _Optional[_Iterable[_Union[State, _Mapping]]] = ..., attention: _Optional[_Union[AttentionOutput, _Mapping]] = ..., variants: _Optional[_Iterable[_Union[Variant, _Mapping]]] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., producers: _Optional[_Iterable[_Union[Producer, _Mapping]]] = ..., data: _Optional[_Union[Data, _Mapping]] = ..., quality: _Optional[_Iterable[_Union[Quality, _Mapping]]] = ..., parity: _Optional[_Union[ParityReport, _Mapping]] = ..., image: _Optional[_Union[ImageInput, _Mapping]] = ..., golden_file: _Optional[str] = ..., requires: _Optional[_Iterable[str]] = ..., single_pass: _Optional[_Union[SinglePass, _Mapping]] = ...) -> None: ...

class Paper(_message.Message):
    __slots__ = ("title", "authors", "year", "url")
    TITLE_FIELD_NUMBER: _ClassVar[int]
    AUTHORS_FIELD_NUMBER: _ClassVar[int]
    YEAR_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    title: str
    authors: str
    year: int
    url: str
    def __init__(self, title: _Optional[str] = ..., authors: _Optional[str] = ..., year: _Optional[int] = ..., url: _Optional[str] = ...) -> None: ...

class ImageInput(_message.Message):
    __slots__ = ("height", "width", "grid_height", "grid_width")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    GRID_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    GRID_WIDTH_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    grid_height: int
    grid_width: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., grid_height: _Optional[int] = ..., grid_width: _Optional[int] = ...) -> None: ...

class SinglePass(_message.Message):
    __slots__ = ("picture", "labels", "attention", "clip", "latent", "generated")
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    LATENT_FIELD_NUMBER: _ClassVar[int]
    GENERATED_FIELD_NUMBER: _ClassVar[int]
    picture: PictureInput
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    attention: _containers.RepeatedCompositeFieldContainer[PassAttention]
    clip: ClipInput
    latent: LatentInput
    generated: PictureOutput
    def __init__(self, picture: _Optional[_Union[PictureInput, _Mapping]] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., attention: _Optional[_Iterable[_Union[PassAttention, _Mapping]]] = ..., clip: _Optional[_Union[ClipInput, _Mapping]] = ..., latent: _Optional[_Union[LatentInput, _Mapping]] = ..., generated: _Optional[_Union[PictureOutput, _Mapping]] = ...) -> None: ...

class ClipInput(_message.Message):
    __slots__ = ("frames", "size", "sampling", "cells")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    frames: int
    size: PictureSize
    sampling: FrameSampling
    cells: ClipCells
    def __init__(self, frames: _Optional[int] = ..., size: _Optional[_Union[PictureSize, _Mapping]] = ..., sampling: _Optional[_Union[FrameSampling, str]] = ..., cells: _Optional[_Union[ClipCells, _Mapping]] = ...) -> None: ...

class ClipCells(_message.Message):
    __slots__ = ("times", "rows", "columns", "first_frame", "frames")
    TIMES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    FIRST_FRAME_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    times: int
    rows: int
    columns: int
    first_frame: int
    frames: int
    def __init__(self, times: _Optional[int] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., first_frame: _Optional[int] = ..., frames: _Optional[int] = ...) -> None: ...

class LatentInput(_message.Message):
    __slots__ = ("size",)
    SIZE_FIELD_NUMBER: _ClassVar[int]
    size: int
    def __init__(self, size: _Optional[int] = ...) -> None: ...

class PictureOutput(_message.Message):
    __slots__ = ("width", "height", "cell")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    cell: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., cell: _Optional[int] = ...) -> None: ...

class PictureInput(_message.Message):
    __slots__ = ("sizes", "fit", "cell")
    SIZES_FIELD_NUMBER: _ClassVar[int]
    FIT_FIELD_NUMBER: _ClassVar[int]
    CELL_FIELD_NUMBER: _ClassVar[int]
    sizes: _containers.RepeatedCompositeFieldContainer[PictureSize]
    fit: Fit
    cell: int
    def __init__(self, sizes: _Optional[_Iterable[_Union[PictureSize, _Mapping]]] = ..., fit: _Optional[_Union[Fit, str]] = ..., cell: _Optional[int] = ...) -> None: ...

class PictureSize(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("name", "colour")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COLOUR_FIELD_NUMBER: _ClassVar[int]
    name: str
    colour: int
    def __init__(self, name: _Optional[str] = ..., colour: _Optional[int] = ...) -> None: ...

class PassAttention(_message.Message):
    __slots__ = ("output", "role", "block", "meaning")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    MEANING_FIELD_NUMBER: _ClassVar[int]
    output: str
    role: AttentionRole
    block: str
    meaning: str
    def __init__(self, output: _Optional[str] = ..., role: _Optional[_Union[AttentionRole, str]] = ..., block: _Optional[str] = ..., meaning: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_source_tokens", "max_target_tokens", "max_beam_size")
    MAX_SOURCE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_TARGET_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_BEAM_SIZE_FIELD_NUMBER: _ClassVar[int]
    max_source_tokens: int
    max_target_tokens: int
    max_beam_size: int
    def __init__(self, max_source_tokens: _Optional[int] = ..., max_target_tokens: _Optional[int] = ..., max_beam_size: _Optional[int] = ...) -> None: ...

class Vocabulary(_message.Message):
    __slots__ = ("sentencepiece_file", "size", "pad_id", "unknown_id", "begin_id", "end_id", "source_language", "target_language")
    SENTENCEPIECE_FILE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    PAD_ID_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ID_FIELD_NUMBER: _ClassVar[int]
    BEGIN_ID_FIELD_NUMBER: _ClassVar[int]
    END_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    TARGET_LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    sentencepiece_file: str
    size: int
    pad_id: int
    unknown_id: int
    begin_id: int
    end_id: int
    source_language: str
    target_language: str
    def __init__(self, sentencepiece_file: _Optional[str] = ..., size: _Optional[int] = ..., pad_id: _Optional[int] = ..., unknown_id: _Optional[int] = ..., begin_id: _Optional[int] = ..., end_id: _Optional[int] = ..., source_language: _Optional[str] = ..., target_language: _Optional[str] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "dtype", "axes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    AXES_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: DataType
    axes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[DataType, str]] = ..., axes: _Optional[_Iterable[str]] = ...) -> None: ...

class Graph(_message.Message):
    __slots__ = ("file", "inputs", "outputs")
    FILE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    file: str
    inputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    outputs: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, file: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class StepGraph(_message.Message):
    __slots__ = ("graph", "max_rows_of_request", "gives_attention", "block_rows")
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    MAX_ROWS_OF_REQUEST_FIELD_NUMBER: _ClassVar[int]
    GIVES_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ROWS_FIELD_NUMBER: _ClassVar[int]
    graph: Graph
    max_rows_of_request: int
    gives_attention: bool
    block_rows: int
    def __init__(self, graph: _Optional[_Union[Graph, _Mapping]] = ..., max_rows_of_request: _Optional[int] = ..., gives_attention: _Optional[bool] = ..., block_rows: _Optional[int] = ...) -> None: ...

class State(_message.Message):
    __slots__ = ("name", "scope", "axes", "encode_output", "step_output", "in_place", "growing_axis", "capacity")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    AXES_FIELD_NUMBER: _ClassVar[int]
    ENCODE_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    STEP_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    IN_PLACE_FIELD_NUMBER: _ClassVar[int]
    GROWING_AXIS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    scope: Scope
    axes: _containers.RepeatedScalarFieldContainer[str]
    encode_output: str
    step_output: str
    in_place: bool
    growing_axis: str
    capacity: int
    def __init__(self, name: _Optional[str] = ..., scope: _Optional[_Union[Scope, str]] = ..., axes: _Optional[_Iterable[str]] = ..., encode_output: _Optional[str] = ..., step_output: _Optional[str] = ..., in_place: _Optional[bool] = ..., growing_axis: _Optional[str] = ..., capacity: _Optional[int] = ...) -> None: ...

class AttentionOutput(_message.Message):
    __slots__ = ("output", "meaning", "num_layers", "num_heads", "mean_layers", "mean_heads")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    MEANING_FIELD_NUMBER: _ClassVar[int]
    NUM_LAYERS_FIELD_NUMBER: _ClassVar[int]
    NUM_HEADS_FIELD_NUMBER: _ClassVar[int]
    MEAN_LAYERS_FIELD_NUMBER: _ClassVar[int]
    MEAN_HEADS_FIELD_NUMBER: _ClassVar[int]
    output: str
    meaning: str
    num_layers: int
    num_heads: int
    mean_layers: _containers.RepeatedScalarFieldContainer[int]
    mean_heads: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, output: _Optional[str] = ..., meaning: _Optional[str] = ..., num_layers: _Optional[int] = ..., num_heads: _Optional[int] = ..., mean_layers: _Optional[_Iterable[int]] = ..., mean_heads: _Optional[_Iterable[int]] = ...) -> None: ...

class Variant(_message.Message):
    __slots__ = ("name", "device", "encode", "steps", "passes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ENCODE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PASSES_FIELD_NUMBER: _ClassVar[int]
    name: str
    device: Device
    encode: Graph
    steps: _containers.RepeatedCompositeFieldContainer[StepGraph]
    passes: _containers.RepeatedCompositeFieldContainer[PassGraph]
    def __init__(self, name: _Optional[str] = ..., device: _Optional[_Union[Device, str]] = ..., encode: _Optional[_Union[Graph, _Mapping]] = ..., steps: _Optional[_Iterable[_Union[StepGraph, _Mapping]]] = ..., passes: _Optional[_Iterable[_Union[PassGraph, _Mapping]]] = ...) -> None: ...

class PassGraph(_message.Message):
    __slots__ = ("graph", "gives_attention", "max_batch")
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    GIVES_ATTENTION_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    graph: Graph
    gives_attention: bool
    max_batch: int
    def __init__(self, graph: _Optional[_Union[Graph, _Mapping]] = ..., gives_attention: _Optional[bool] = ..., max_batch: _Optional[int] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("name", "sha256", "num_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    num_bytes: int
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., num_bytes: _Optional[int] = ...) -> None: ...

class Producer(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Data(_message.Message):
    __slots__ = ("name", "terms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    terms: str
    def __init__(self, name: _Optional[str] = ..., terms: _Optional[str] = ...) -> None: ...

class Quality(_message.Message):
    __slots__ = ("metric", "dataset", "value", "command", "variant", "part")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    metric: str
    dataset: str
    value: float
    command: str
    variant: str
    part: str
    def __init__(self, metric: _Optional[str] = ..., dataset: _Optional[str] = ..., value: _Optional[float] = ..., command: _Optional[str] = ..., variant: _Optional[str] = ..., part: _Optional[str] = ...) -> None: ...

class ParityReport(_message.Message):
    __slots__ = ("tolerance", "cases", "num_sentences", "num_identical", "num_near_ties", "approximate")
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    CASES_FIELD_NUMBER: _ClassVar[int]
    NUM_SENTENCES_FIELD_NUMBER: _ClassVar[int]
    NUM_IDENTICAL_FIELD_NUMBER: _ClassVar[int]
    NUM_NEAR_TIES_FIELD_NUMBER: _ClassVar[int]
    APPROXIMATE_FIELD_NUMBER: _ClassVar[int]
    tolerance: float
    cases: _containers.RepeatedCompositeFieldContainer[ParityCase]
    num_sentences: int
    num_identical: int
    num_near_ties: int
    approximate: _containers.RepeatedCompositeFieldContainer[ApproximateVariant]
    def __init__(self, tolerance: _Optional[float] = ..., cases: _Optional[_Iterable[_Union[ParityCase, _Mapping]]] = ..., num_sentences: _Optional[int] = ..., num_identical: _Optional[int] = ..., num_near_ties: _Optional[int] = ..., approximate: _Optional[_Iterable[_Union[ApproximateVariant, _Mapping]]] = ...) -> None: ...

class ApproximateVariant(_message.Message):
    __slots__ = ("variant", "max_abs_difference", "divergence", "max_divergence", "identical_share")
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    DIVERGENCE_FIELD_NUMBER: _ClassVar[int]
    MAX_DIVERGENCE_FIELD_NUMBER: _ClassVar[int]
    IDENTICAL_SHARE_FIELD_NUMBER: _ClassVar[int]
    variant: str
    max_abs_difference: float
    divergence: float
    max_divergence: float
    identical_share: float
    def __init__(self, variant: _Optional[str] = ..., max_abs_difference: _Optional[float] = ..., divergence: _Optional[float] = ..., max_divergence: _Optional[float] = ..., identical_share: _Optional[float] = ...) -> None: ...

class ParityCase(_message.Message):
    __slots__ = ("graph", "rows", "source_tokens", "position", "max_abs_difference")
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    MAX_ABS_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    graph: str
    rows: int
    source_tokens: int
    position: int
    max_abs_difference: float
    def __init__(self, graph: _Optional[str] = ..., rows: _Optional[int] = ..., source_tokens: _Optional[int] = ..., position: _Optional[int] = ..., max_abs_difference: _Optional[float] = ...) -> None: ...

class GoldenAnswers(_message.Message):
    __slots__ = ("inputs", "tolerances")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TOLERANCES_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedCompositeFieldContainer[GoldenInput]
    tolerances: _containers.RepeatedCompositeFieldContainer[GoldenTolerance]
    def __init__(self, inputs: _Optional[_Iterable[_Union[GoldenInput, _Mapping]]] = ..., tolerances: _Optional[_Iterable[_Union[GoldenTolerance, _Mapping]]] = ...) -> None: ...

class GoldenInput(_message.Message):
    __slots__ = ("tokens", "image", "answers")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    image: bytes
    answers: _containers.RepeatedCompositeFieldContainer[GoldenAnswer]
    def __init__(self, tokens: _Optional[_Iterable[int]] = ..., image: _Optional[bytes] = ..., answers: _Optional[_Iterable[_Union[GoldenAnswer, _Mapping]]] = ...) -> None: ...

class GoldenAnswer(_message.Message):
    __slots__ = ("beam_size", "max_tokens", "tokens", "score")
    BEAM_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    beam_size: int
    max_tokens: int
    tokens: _containers.RepeatedScalarFieldContainer[int]
    score: float
    def __init__(self, beam_size: _Optional[int] = ..., max_tokens: _Optional[int] = ..., tokens: _Optional[_Iterable[int]] = ..., score: _Optional[float] = ...) -> None: ...

class GoldenTolerance(_message.Message):
    __slots__ = ("variant", "score")
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    variant: str
    score: float
    def __init__(self, variant: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class GoldenPasses(_message.Message):
    __slots__ = ("passes", "tolerances")
    PASSES_FIELD_NUMBER: _ClassVar[int]
    TOLERANCES_FIELD_NUMBER: _ClassVar[int]
    passes: _containers.RepeatedCompositeFieldContainer[GoldenPass]
    tolerances: _containers.RepeatedCompositeFieldContainer[GoldenOutputTolerance]
    def __init__(self, passes: _Optional[_Iterable[_Union[GoldenPass, _Mapping]]] = ..., tolerances: _Optional[_Iterable[_Union[GoldenOutputTolerance, _Mapping]]] = ...) -> None: ...

class GoldenPass(_message.Message):
    __slots__ = ("inputs", "outputs")
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedCompositeFieldContainer[GoldenTensor]
    outputs: _containers.RepeatedCompositeFieldContainer[GoldenTensor]
    def __init__(self, inputs: _Optional[_Iterable[_Union[GoldenTensor, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[GoldenTensor, _Mapping]]] = ...) -> None: ...

class GoldenTensor(_message.Message):
    __slots__ = ("name", "shape", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class GoldenOutputTolerance(_message.Message):
    __slots__ = ("variant", "output", "difference", "share")
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    variant: str
    output: str
    difference: float
    share: float
    def __init__(self, variant: _Optional[str] = ..., output: _Optional[str] = ..., difference: _Optional[float] = ..., share: _Optional[float] = ...) -> None: ...
