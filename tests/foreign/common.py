# SPDX-License-Identifier: Apache-2.0
"""Shared by both foreign models: a vocabulary, the declared axes, and an export that follows the declaration."""

from __future__ import annotations

import functools
import io
import warnings
from pathlib import Path

import onnx
import sentencepiece
import torch
from torch import Tensor, nn

from attnserve.v1 import manifest_pb2

SENTENCES = Path(__file__).resolve().parents[1] / "golden" / "sentences.en.txt"
PAD_ID, UNKNOWN_ID, BEGIN_ID, END_ID = 0, 1, 2, 3
VOCAB_SIZE = 200
MAX_TOKENS = 127  # of source and target, the end symbol not counted
CAPACITY = MAX_TOKENS + 1
VOCABULARY_FILE = "pieces.model"

FLOAT32, INT32, INT64 = manifest_pb2.DATA_TYPE_FLOAT32, manifest_pb2.DATA_TYPE_INT32, manifest_pb2.DATA_TYPE_INT64
TORCH_DTYPES = {FLOAT32: torch.float32, INT32: torch.int32, INT64: torch.int64}
OPSET = 20

# Sizes that the graphs are traced with, all different, none of them 0 or 1.
EXAMPLE_SIZES = {"request": 2, "row": 3, "source": 5, "target": 7}


def sentences() -> list[str]:
    """The English sentences that were written for the tests."""
    return SENTENCES.read_text(encoding="utf-8").splitlines()


@functools.cache
def sentencepiece_model() -> bytes:
    """A SentencePiece model of 200 pieces, the same in every run."""
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()),
        model_writer=writer,
        vocab_size=VOCAB_SIZE,
        model_type="unigram",
        character_coverage=1.0,
        pad_id=PAD_ID,
        unk_id=UNKNOWN_ID,
        bos_id=BEGIN_ID,
        eos_id=END_ID,
        num_threads=1,
        minloglevel=2,
    )
    return writer.getvalue()


def tokenizer() -> sentencepiece.SentencePieceProcessor:
    """The processor of :func:`sentencepiece_model`."""
    return sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())


def extra_files(model_id: str) -> dict[str, bytes]:
    """Files of a bundle that are not graphs."""
    card = f"# {model_id}\n\nRandom weights, for tests: its answers mean nothing.\n"
    return {VOCABULARY_FILE: sentencepiece_model(), "MODEL_CARD.md": card.encode()}


def tensor(name: str, dtype: manifest_pb2.DataType, *axes: str) -> manifest_pb2.Tensor:
    """A tensor of a graph: an axis is a name, or a decimal number where its size is fixed."""
    return manifest_pb2.Tensor(name=name, dtype=dtype, axes=axes)


def manifest(model_id: str, architecture: str, description: str) -> manifest_pb2.Manifest:
    """The common part of both manifests; each model adds states, attention and variants."""
    return manifest_pb2.Manifest(
        format_version=1,
        model_id=model_id,
        version="1",
        task=manifest_pb2.TASK_TRANSLATION,
        architecture=architecture,
        description=description,
        limits=manifest_pb2.Limits(max_source_tokens=MAX_TOKENS, max_target_tokens=MAX_TOKENS, max_beam_size=8),
        vocabulary=manifest_pb2.Vocabulary(
            sentencepiece_file=VOCABULARY_FILE,
            size=VOCAB_SIZE,
            pad_id=PAD_ID,
            unknown_id=UNKNOWN_ID,
            begin_id=BEGIN_ID,
            end_id=END_ID,
            source_language="en",
            target_language="en",
        ),
        data=manifest_pb2.Data(name="none: random weights", terms="Apache-2.0"),
    )


class _Positional(nn.Module):
    """Takes any number of tensors, so that all graphs are traced alike."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Calls the module with the tensors."""
        out: tuple[Tensor, ...] = self.module(*tensors)
        return out


def export_graph(module: nn.Module, graph: manifest_pb2.Graph) -> onnx.ModelProto:
    """Exports ``module``, whose ``forward`` takes and gives the tensors of ``graph`` in their order."""
    names = sorted({axis for one in graph.inputs for axis in one.axes if not axis.isdecimal()})
    dims = {name: torch.export.Dim(name) for name in names}
    shapes = tuple({i: dims[axis] for i, axis in enumerate(one.axes) if axis in dims} for one in graph.inputs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # of torch, about itself
        warnings.filterwarnings("ignore", message=".*The axis name.*shares the same shape constraints")  # as it should
        program = torch.onnx.export(
            _Positional(module).eval(),
            tuple(_example(one) for one in graph.inputs),
            dynamo=True,
            dynamic_shapes=(shapes,),
            input_names=[one.name for one in graph.inputs],
            output_names=[one.name for one in graph.outputs],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _example(declared: manifest_pb2.Tensor) -> Tensor:
    sizes = [int(axis) if axis.isdecimal() else EXAMPLE_SIZES[axis] for axis in declared.axes]
    return torch.ones(sizes, dtype=TORCH_DTYPES[declared.dtype])
