# SPDX-License-Identifier: Apache-2.0
"""A decode step of the Transformer in PyTorch on a GPU, as one would write it: half precision, a cache of fixed size, SDPA.

It does what our step graph does: embeds the tokens, appends keys and values at the position, attends to the cache and to the
memory, and chooses the best token. The work is the same for all rows, so one position for all is no advantage that matters.
"""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from attnserve_export.bundles import stored_model
from attnserve_export.trained import trained_in_bundle
from attnserve_server.bundle.loader import load_bundle

CAPACITY, SOURCE, POSITION = 128, 16, 12


class TorchStep:
    """A step of so many rows.

    Args:
        folder: of the bundle.
        rows: S.
        compiled: by ``torch.compile`` with CUDA graphs, or eager.
    """

    def __init__(self, folder: Path, rows: int, *, compiled: bool) -> None:
        trained, vocab_size = trained_in_bundle(folder), load_bundle(folder).manifest.vocabulary.size
        model: Any = stored_model(trained.recipe, trained.weights, vocab_size)
        self._model, self._config = model.half().cuda(), model.config
        config = self._config
        shape = (rows, config.num_heads, CAPACITY, config.d_model // config.num_heads)
        options: dict[str, Any] = {"dtype": torch.float16, "device": "cuda"}
        self._caches = [torch.zeros(shape, **options) for _ in range(2 * config.num_decoder_layers)]
        self._memory = [torch.randn((rows, shape[1], SOURCE, shape[3]), **options) for _ in self._caches]
        self._token = torch.full((rows,), 5, device="cuda")
        self._position = torch.tensor(POSITION, device="cuda")
        self._run = torch.compile(self._step, mode="reduce-overhead") if compiled else self._step

    def seconds(self, repetitions: int) -> float:
        """The median time of a step, its tokens read back."""
        times = []
        with torch.inference_mode():
            for _ in range(repetitions + 5):
                torch.cuda.synchronize()
                began = time.perf_counter()
                self._run(self._token, self._position).cpu()
                times.append(time.perf_counter() - began)
        return statistics.median(times[5:])

    def _step(self, token: Tensor, position: Tensor) -> Tensor:
        """The best next token of each row: int64 (S)."""
        model, heads = self._model, self._config.num_heads
        x = model.embedding(token) * math.sqrt(self._config.d_model) + model.positions[position]
        is_seen = torch.arange(CAPACITY, device=x.device) <= position
        for index, layer in enumerate(model.decoder_layers):
            query, key, value = layer.self_attention.qkv(layer.self_norm(x)).unflatten(-1, (3, heads, -1)).unbind(1)
            keys, values = self._caches[2 * index : 2 * index + 2]
            keys.index_copy_(2, position[None], key[:, :, None])
            values.index_copy_(2, position[None], value[:, :, None])
            attended = functional.scaled_dot_product_attention(query[:, :, None], keys, values, attn_mask=is_seen)
            x = x + layer.self_attention.output(attended.flatten(1))
            query = layer.cross_attention.query(layer.cross_norm(x)).unflatten(-1, (heads, 1, -1))
            attended = functional.scaled_dot_product_attention(query, self._memory[2 * index], self._memory[2 * index + 1])
            x = x + layer.cross_attention.output(attended.flatten(1))
            x = x + layer.feed_forward(layer.ff_norm(x))
        best: Tensor = model.project(model.decoder_norm(x)).argmax(-1)
        return best
