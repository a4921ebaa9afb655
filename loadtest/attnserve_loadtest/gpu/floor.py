# SPDX-License-Identifier: Apache-2.0
"""The time of launches, copies and waits on this device, with PyTorch only: ``python floor.py`` prints a JSON object.

The least time of a decode step is the sum of these: its kernels as nodes of one CUDA graph, one copy to the device, one copy back.
The time to read its bytes is no bound, because the weights fit in the device's L2 cache. This file imports nothing of the project,
so that it runs where ONNX Runtime is not installed. Without CUDA the same calls run on the CPU, uncaptured: a rehearsal.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

ROWS = (64, 1024)
CHAIN = (32, 128)
"""Lengths of the two captured chains whose difference is the cost of a node."""
_WIDTH, _VOCABULARY = 128, 8000
_REPETITIONS, _WARM_UP = 200, 20


class Floor:
    """Measures on one device: "cuda", or "cpu" for a rehearsal."""

    def __init__(self, device: str) -> None:
        self.device, self._is_cuda = device, device == "cuda"
        self._repetitions, self._warm_up = (_REPETITIONS, _WARM_UP) if self._is_cuda else (1, 0)
        self._vocabulary = _VOCABULARY if self._is_cuda else 8

    def measure(self) -> dict[str, Any]:
        """All figures; times in microseconds, medians."""
        torch.manual_seed(0)
        return {**self._machine(), **self._nodes(), **self._copies()}

    def _machine(self) -> dict[str, Any]:
        found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": self.device}
        if self._is_cuda:
            found |= {"gpu": torch.cuda.get_device_name(0), "memory_bytes": torch.cuda.get_device_properties(0).total_memory}
        big = torch.randint(0, 255, (1 << (28 if self._is_cuda else 20),), dtype=torch.uint8, device=self.device)
        other = torch.empty_like(big)
        found["copy_bytes_per_second"] = round(2e6 * len(big) / self._median_us(lambda: other.copy_(big)))
        return found

    def _nodes(self) -> dict[str, Any]:
        """The cost of a graph node, and of the product with the vocabulary in both precisions."""
        found: dict[str, Any] = {}
        for rows in ROWS:
            x = torch.randn(rows, _WIDTH, device=self.device, dtype=torch.half)
            add = functools.partial(x.add_, 1e-3)
            short, long = (self._graph_us(add, count) for count in CHAIN)
            found[f"us_a_node_{rows}_rows"] = round((long - short) / (CHAIN[1] - CHAIN[0]), 3)
            found[f"graph_{CHAIN[0]}_adds_{rows}_rows_us"], found[f"graph_{CHAIN[1]}_adds_{rows}_rows_us"] = short, long
            for dtype in (torch.half, torch.float):
                product = self._graph_us(self._vocabulary_product(rows, dtype), CHAIN[0]) / CHAIN[0]
                found[f"vocabulary_product_{rows}_rows_{str(dtype)[6:]}_us"] = round(product, 2)
        return found

    def _vocabulary_product(self, rows: int, dtype: torch.dtype) -> Callable[[], object]:
        """The product of (rows, d_model) with the embedding matrix."""
        a = torch.randn(rows, _WIDTH, device=self.device, dtype=dtype)
        w = torch.randn(self._vocabulary, _WIDTH, device=self.device, dtype=dtype)
        y = torch.empty(rows, self._vocabulary, device=self.device, dtype=dtype)
        return lambda: torch.mm(a, w.t(), out=y)

    def _copies(self) -> dict[str, Any]:
        """Small synchronous copies: to the device, back, and a row of a cache on the device."""
        host, small = torch.zeros(2048, dtype=torch.uint8), torch.zeros(2048, dtype=torch.uint8, device=self.device)
        row = torch.randn(65, 4, 129, 32, device=self.device, dtype=torch.half)
        found = {
            "up_2k_us": self._median_us(lambda: small.copy_(host)),
            "down_2k_us": self._median_us(lambda: host.copy_(small)),
            "row_copy_us": self._median_us(lambda: row[0].copy_(row[1])),
        }
        if self._is_cuda:
            pinned = host.pin_memory()
            found["up_2k_pinned_us"] = self._median_us(lambda: small.copy_(pinned, non_blocking=True))
            found["down_2k_pinned_us"] = self._median_us(lambda: pinned.copy_(small, non_blocking=True))
        return found

    def _graph_us(self, body: Callable[[], object], count: int) -> float:
        """A chain of ``count`` calls, captured into one CUDA graph; each replay is synchronous."""
        if not self._is_cuda:
            return self._median_us(lambda: [body() for _ in range(count)])
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()  # what body reads was written on another stream
        with torch.cuda.stream(stream):
            for _ in range(3):
                body()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(count):
                body()
        return self._median_us(graph.replay)

    def _median_us(self, call: Callable[[], object]) -> float:
        times = []
        for index in range(self._warm_up + self._repetitions):
            began = time.perf_counter()
            call()
            if self._is_cuda:
                torch.cuda.synchronize()
            if index >= self._warm_up:
                times.append(time.perf_counter() - began)
        return round(1e6 * statistics.median(times), 2)


if __name__ == "__main__":
    print(json.dumps(Floor("cuda" if torch.cuda.is_available() else "cpu").measure(), indent=1))
