# SPDX-License-Identifier: Apache-2.0
"""A decode step of the Transformer in PyTorch, as one would write it for a GPU: half precision, a cache of fixed size, SDPA.

It does the work of our step graph: embeds the tokens, appends keys and values at the position, attends to the cache and to the
memory, and chooses the best token. All rows have the same position; this does not make it noticeably faster.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from attnserve_export.bundles import stored_model
from attnserve_export.trained import trained_in_bundle
from attnserve_server.bundle.loader import load_bundle

CAPACITY, SOURCE, POSITION = 128, 16, 12
Way = Literal["eager", "captured", "compiled"]
"""Eager; captured into one CUDA graph (the fair baseline); or compiled by ``torch.compile``."""


class TorchStep:
    """A step of ``rows`` rows.

    Args:
        folder: of the bundle.
        rows: S.
        way: how it is run. "captured" needs CUDA; "compiled" on the CPU uses a backend that compiles nothing.
        device: "cuda", or "cpu" for a rehearsal.
        dtype: of weights, caches and activations.

    Raises:
        ValueError: the step cannot be captured on this device.
    """

    def __init__(self, folder: Path, rows: int, way: Way, *, device: str = "cuda", dtype: torch.dtype = torch.float16) -> None:
        if way == "captured" and device != "cuda":
            raise ValueError("only CUDA has graphs to capture")
        trained, vocab_size = trained_in_bundle(folder), load_bundle(folder).manifest.vocabulary.size
        model: Any = stored_model(trained.recipe, trained.weights, vocab_size)
        self.model, self.config = model.to(device, dtype), model.config
        config = self.config
        shape = (rows, config.num_heads, CAPACITY, config.d_model // config.num_heads)
        self.caches = [0.5 * torch.randn(shape, dtype=dtype, device=device) for _ in range(2 * config.num_decoder_layers)]
        """Keys and values of each decoder layer in turn: (S, H, CAPACITY, d_head)."""
        self.memory = [0.5 * torch.randn((*shape[:2], SOURCE, shape[3]), dtype=dtype, device=device) for _ in self.caches]
        """The same of the source: (S, H, SOURCE, d_head)."""
        self._token = torch.full((rows,), 5, device=device)
        self._position = torch.tensor(POSITION, device=device)
        self._device = device
        self._run = self._made_to_run(way)

    def run(self) -> Tensor:
        """The best next token of each row, on the host: int64 (S)."""
        with torch.inference_mode():
            return self._run().cpu()

    def seconds(self, repetitions: int) -> float:
        """The median time of a step, its tokens read back."""
        times = []
        for _ in range(repetitions + 5):
            if self._device == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            self.run()
            times.append(time.perf_counter() - began)
        return statistics.median(times[5:])

    def _made_to_run(self, way: Way) -> Callable[[], Tensor]:
        if way == "captured":
            return self._captured()
        if way == "eager":
            return lambda: self.step(self._token, self._position)
        for cache in self.caches:  # they are mutated inputs, for which "reduce-overhead" would leave CUDA graphs out
            torch._dynamo.mark_static_address(cache)
        options: dict[str, Any] = {"mode": "reduce-overhead"} if self._device == "cuda" else {"backend": "aot_eager"}
        compiled: Any = torch.compile(self.step, fullgraph=True, **options)
        return lambda: compiled(self._token, self._position)

    def _captured(self) -> Callable[[], Tensor]:
        """The eager step in one CUDA graph: three runs on a side stream, then the capture."""
        with torch.inference_mode():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self.step(self._token, self._position)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                best = self.step(self._token, self._position)

        def replay() -> Tensor:
            graph.replay()
            return best

        return replay

    def step(self, token: Tensor, position: Tensor) -> Tensor:
        """The best next token of each row: int64 (S), from int64 (S) and an int64 scalar. The caches have advanced."""
        model, heads = self.model, self.config.num_heads
        place = position[None]  # indexing with a scalar tensor would read it on the host, which no capture allows
        x = model.embedding(token) * math.sqrt(self.config.d_model) + model.positions.index_select(0, place)
        is_seen = (torch.arange(CAPACITY, device=x.device) <= position)[None, None, None]  # (1, 1, 1, CAPACITY)
        for index, layer in enumerate(model.decoder_layers):
            query, key, value = layer.self_attention.qkv(layer.self_norm(x)).unflatten(-1, (3, heads, -1)).unbind(1)
            keys, values = self.caches[2 * index : 2 * index + 2]
            keys.index_copy_(2, place, key[:, :, None])
            values.index_copy_(2, place, value[:, :, None])
            attended = functional.scaled_dot_product_attention(query[:, :, None], keys, values, attn_mask=is_seen)
            x = x + layer.self_attention.output(attended.flatten(1))
            query = layer.cross_attention.query(layer.cross_norm(x)).unflatten(-1, (heads, 1, -1))
            attended = functional.scaled_dot_product_attention(query, self.memory[2 * index], self.memory[2 * index + 1])
            x = x + layer.cross_attention.output(attended.flatten(1))
            x = x + layer.feed_forward(layer.ff_norm(x))
        best: Tensor = model.project(model.decoder_norm(x)).argmax(-1)
        return best
