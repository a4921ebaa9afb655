# SPDX-License-Identifier: Apache-2.0
"""Runs the graphs of an iterative model: the encoder on a group of sources, and one step on all live rows, with state in place.

A :class:`Memory` (``host.py``, ``cuda.py``) allocates the tensors and calls ONNX Runtime. Bindings, one per graph, number of rows
and number of requests, are cached: rebinding costs up to half of a small step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from attnserve_server.bundle.loader import Bundle
from attnserve_server.execution.memory import Array, Binding, Encoded, Memory, State, StepSession
from attnserve_server.execution.session import NUMPY_TYPES
from attnserve_server.execution.step import InputArrays, Integers, StepInputs, StepOutputs
from attnserve_server.request import ImageSource, Source

log = logging.getLogger(__name__)
_DECIDING = ("top_tokens", "logits", "log_probs")
"""Outputs that determine the best token, cheapest first."""


class IterativeRunner:
    """Chooses and runs the graphs of one bundle. Not thread-safe: one engine loop owns it, from one thread.

    Args:
        bundle: the model.
        num_slots: maximum number of live rows.
        make_memory: loads the graphs and allocates the slots; called by :meth:`start`.
    """

    def __init__(self, bundle: Bundle, num_slots: int, make_memory: Callable[[Bundle, int], Memory]) -> None:
        self.bundle, self.num_slots, self._make_memory = bundle, num_slots, make_memory
        self.num_cold_shapes = 0
        self._is_warm = False
        self._slots = np.arange(num_slots)
        self._layout: StepInputs | None = None
        self._bound: dict[int, _Bound] = {}
        """By the parity of the state's buffers."""
        self._choices: dict[tuple[int, bool, bool, bool, int], StepSession] = {}

    def start(self) -> None:
        """Loads the graphs and allocates the slots."""
        manifest, variant = self.bundle.manifest, self.bundle.variant
        self._encode_inputs = {tensor.name: NUMPY_TYPES[tensor.dtype] for tensor in variant.encode.inputs}
        self._memory = self._make_memory(self.bundle, self.num_slots)
        self._steps = self._memory.steps
        self._have_log_probs = any(step.gives_log_probs for step in self._steps)
        deciding = [step for step in self._steps if not step.declared.block_rows]
        self._best_by = next(name for name in _DECIDING if all(name in step.outputs for step in deciding))
        self.state: State = self._memory.state
        self.inputs = InputArrays.of(self.num_slots, self._memory.input_array)
        if manifest.attention.output and not any(step.gives_attention for step in variant.steps):
            log.warning("variant %s of %s gives no attention: none of its graphs computes it", variant.name, manifest.model_id)

    def warm_up(self) -> None:
        """Runs every step graph with every number of rows that it is bound for, then the encoder with a few shapes."""
        for _ in self.warming():
            pass

    def warming(self) -> Iterator[None]:
        """:meth:`warm_up`, one shape per yield."""
        started = time.monotonic()
        end = self.bundle.manifest.vocabulary.end_id
        for step in self._steps:
            block = step.declared.block_rows
            group = block or max(1, min(step.declared.max_rows_of_request or 2, self.num_slots))
            for rows in self._memory.warm_rows():
                if block and rows % block:
                    continue  # no batch has it; with fewer slots than a block, none has the graph
                requests = rows if group == 1 else -(-rows // group)
                of_row = [min(row // group, requests - 1) for row in range(rows)]
                members = [[row for row in range(rows) if of_row[row] == request] for request in range(requests)]
                self._run(step, StepInputs([end] * rows, [0] * rows, of_row, members, [1] * requests, False))
                yield
        for sources in self._made_up_sources():
            self.encode(sources)
            yield
        self._is_warm = True
        log.info("warm-up of %s took %.2f s", self.bundle.manifest.model_id, time.monotonic() - started)

    def encode(self, sources: Sequence[Source]) -> Encoded:
        """Runs the encoder on a group of sources, all texts or all images; its result is valid until the next run."""
        feeds = self._image_feeds(sources) if "image" in self._encode_inputs else self._token_feeds(sources)
        return self._memory.encode({name: feeds[name].astype(dtype, copy=False) for name, dtype in self._encode_inputs.items()})

    def _token_feeds(self, sources: Sequence[Source]) -> dict[str, Array]:
        texts = [source for source in sources if isinstance(source, list)]
        lengths = np.array([len(source) for source in texts])
        source = np.full((len(texts), self._memory.source_size(int(lengths.max()))), self.bundle.manifest.vocabulary.pad_id)
        for row, tokens in zip(source, texts, strict=True):
            row[: len(tokens)] = tokens
        return {"source": source, "source_length": lengths}

    def _image_feeds(self, sources: Sequence[Source]) -> dict[str, Array]:
        shape, pixels = self.bundle.manifest.image, [source.pixels for source in sources if isinstance(source, ImageSource)]
        return {"image": np.frombuffer(b"".join(pixels), np.uint8).reshape(len(pixels), shape.height, shape.width, 3)}

    def _made_up_sources(self) -> Iterator[Sequence[Source]]:
        """Yields groups of dummy sources for the warm-up of the encoder."""
        image, end = self.bundle.manifest.image, self.bundle.manifest.vocabulary.end_id
        if "image" in self._encode_inputs:
            cells = ImageSource(bytes(3 * image.height * image.width), image.grid_height * image.grid_width)
            counts = {min(count, self.bundle.max_encoded or count) for count, _ in self._memory.warm_sources()}
            yield from ([cells] * count for count in sorted(counts, reverse=True))
        else:
            yield from ([[end] * length] * count for count, length in self._memory.warm_sources())

    def step(self, inputs: StepInputs) -> StepOutputs:
        """Runs one decode step on all live rows and advances the state.

        Raises:
            RuntimeError: no graph of the variant fits the batch, or attention is wanted and no graph that fits gives it.
        """
        if inputs is not self._layout:
            return self._run(self.choose(inputs), inputs)
        bound = self._bound.get(self.state.buffer_parity)
        if bound is None:
            return self._run(self._chosen, inputs)
        for target, values in bound.changing:
            target[:] = values
        return self._outputs(bound)

    def choose(self, inputs: StepInputs) -> StepSession:
        """Returns the graph for a step: the first one that fits the batch.

        Raises:
            RuntimeError: as :meth:`step`.
        """
        most = max(map(len, inputs.rows_of_request))
        is_one_to_one = most == 1 and bool((np.asarray(inputs.request_of_row) == self._slots[: len(inputs.tokens)]).all())
        key = most, is_one_to_one, inputs.wants_attention, inputs.wants_scores, inputs.block_rows
        if key not in self._choices:
            self._choices[key] = self._fitting(*key)
        return self._choices[key]

    def _fitting(self, most: int, is_one_to_one: bool, wants_attention: bool, wants_scores: bool, block_rows: int) -> StepSession:
        fitting = [
            step
            for step in self._steps
            if (step.declared.max_rows_of_request or most) >= most
            and step.declared.block_rows in (0, block_rows)
            and (step.is_indexed or step.declared.block_rows or is_one_to_one)
            and (not wants_scores or step.gives_log_probs or not self._have_log_probs)
        ]
        chosen = next((step for step in fitting if step.declared.gives_attention == wants_attention), None)
        if chosen is not None:
            return chosen
        if wants_attention or not fitting:
            what = "gives attention" if wants_attention else "fits"
            model, variant = self.bundle.manifest.model_id, self.bundle.variant.name
            raise RuntimeError(f"no step graph of {model}, variant {variant}, {what} at {most} rows per request")
        return fitting[0]

    def _run(self, step: StepSession, inputs: StepInputs) -> StepOutputs:
        if inputs is not self._layout:
            self._layout = None  # until all inputs are written
            self._bound.clear()
        parity = self.state.buffer_parity
        bound = self._bound[parity] = self._bind(step, inputs)
        self._layout, self._chosen = inputs, step
        return self._outputs(bound)

    def _outputs(self, bound: _Bound) -> StepOutputs:
        arrays = bound.binding.run(bound.num_rows)
        return StepOutputs(arrays, arrays.get(bound.attention) if bound.attention else None, self._best_by)

    def _bind(self, step: StepSession, inputs: StepInputs) -> _Bound:
        """Writes all inputs of a layout to its binding."""
        rows, requests = len(inputs.tokens), len(inputs.source_lengths)
        key = self._memory.key(rows, requests)
        binding = step.bindings.get(key)
        if binding is None:
            self._note_shape(step, key[0])
            binding = step.bindings[key] = self._memory.bind(step, key)
        feeds = binding.feeds(rows, requests)
        _fill(feeds, inputs)
        changing = [
            (feeds[name], values) for name, values in (("token", inputs.tokens), ("position", inputs.positions)) if name in feeds
        ]
        attention = self.bundle.manifest.attention.output if step.declared.gives_attention else ""
        return _Bound(binding, rows, attention, [each for each in changing if not _is_same(*each)])

    def _note_shape(self, step: StepSession, rows: int) -> None:
        if self._is_warm and rows not in step.seen_rows:
            self.num_cold_shapes += 1
        step.seen_rows.add(rows)


@dataclass(frozen=True, slots=True)
class _Bound:
    """The binding of a layout.

    Attributes:
        binding: the graph with its inputs and outputs.
        num_rows: live rows.
        attention: name of the attention output; empty if the graph gives none.
        changing: the copies to make before each further step: host array of an input, and its values.
    """

    binding: Binding
    num_rows: int
    attention: str
    changing: list[tuple[Array, Integers]]


def _is_same(target: Array, values: Integers) -> bool:
    """Whether the values are in the target's memory."""
    return isinstance(values, np.ndarray) and np.may_share_memory(target, values)


def _fill(feeds: Mapping[str, Array], inputs: StepInputs) -> None:
    feeds["token"][:] = inputs.tokens
    if "position" in feeds:
        feeds["position"][:] = inputs.positions
    if "source_length" in feeds:
        feeds["source_length"][:] = inputs.source_lengths
    if "request_of_row" in feeds:
        feeds["request_of_row"][:] = inputs.request_of_row
    if "rows_of_request" in feeds:
        table, place = feeds["rows_of_request"], feeds["place_of_row"]
        group = table.shape[1]
        table[:] = [[*members, *([0] * (group - len(members)))] for members in inputs.rows_of_request]
        for request, members in enumerate(inputs.rows_of_request):
            for index, row in enumerate(members):
                place[row] = request * group + index
