# SPDX-License-Identifier: Apache-2.0
"""What goes into a decode step, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from attnserve_server.execution.memory import Array

Integers = Sequence[int] | npt.NDArray[np.integer]


@dataclass(slots=True)
class InputArrays:
    """The small inputs of all slots, (num_slots,) each. The batch writes them; graphs on a CPU read them where they are."""

    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int32]
    request_of_row: npt.NDArray[np.int64]
    source_lengths: npt.NDArray[np.int32]

    @classmethod
    def of(cls, num_slots: int, find: Callable[[str, npt.DTypeLike], Array | None]) -> InputArrays:
        """Takes the arrays that ``find`` returns by name and type, and makes the missing ones."""
        types = {"token": np.int64, "position": np.int32, "request_of_row": np.int64, "source_length": np.int32}
        arrays: list[Any] = []
        for name, dtype in types.items():
            found = find(name, dtype)
            arrays.append(np.zeros(num_slots, dtype) if found is None else found)
        return cls(*arrays)


@dataclass(slots=True, eq=False)
class StepInputs:
    """Layout of the live rows: one entry per row (or request), in slot order.

    The same object in consecutive steps means the same layout; only the values of ``tokens`` and ``positions`` may differ then.
    """

    tokens: Integers
    positions: Integers
    request_of_row: Integers
    rows_of_request: Sequence[Sequence[int]]
    source_lengths: Integers
    wants_attention: bool
    wants_scores: bool = True
    """Whether any request needs more than the best token of each row."""
    block_rows: int = 0
    """K, if row r * K + j is one of request r for all rows; such a batch needs the best candidates only. 0 for any other layout."""


class StepOutputs:
    """Outputs of a step by row. Arrays are views of the memory's buffers, valid until the next step."""

    def __init__(self, arrays: Mapping[str, Array], attention: Array | None, best_by: str = "log_probs") -> None:
        self.arrays, self.attention, self._best_by = arrays, attention, best_by
        self._best: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None = None

    @property
    def gives_scores(self) -> bool:
        """Whether all tokens have scores, not only the best ones."""
        return "logits" in self.arrays or "log_probs" in self.arrays

    def best(self, *, wants_scores: bool = True) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Returns the most probable token of every row, and its log-probability, or 0 without ``wants_scores``.

        It is computed at the first call. All graphs of a variant choose by the same output, so that a token does not depend on the
        graph that runs.
        """
        if self._best is None:
            self._best = self._find_best(wants_scores=wants_scores)
        return self._best

    def _find_best(self, *, wants_scores: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        if self._best_by == "top_tokens":
            return self.arrays["top_tokens"][:, 0].astype(np.int64), self.arrays["top_log_probs"][:, 0].astype(np.float32)
        tokens = self.arrays[self._best_by].argmax(-1)
        if not wants_scores:
            return tokens, np.zeros(len(tokens), np.float32)
        return tokens, self._log_probs(slice(None))[np.arange(len(tokens)), tokens]

    def top(self, rows: Integers, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Returns the ``count`` most probable tokens of some rows and their log-probabilities, best first: (rows, count) each.

        Fewer if the graph outputs fewer.
        """
        index = np.asarray(rows)
        if "top_tokens" in self.arrays and (self.arrays["top_tokens"].shape[1] >= count or not self.gives_scores):
            found = self.arrays["top_tokens"][index, :count], self.arrays["top_log_probs"][index, :count]
            return found[0].astype(np.int64, copy=False), found[1].astype(np.float32, copy=False)
        scores = self._log_probs(index)
        tokens = np.argsort(-scores, axis=-1, kind="stable")[:, :count]
        return tokens, np.take_along_axis(scores, tokens, -1)

    def row(self, row: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Returns logits (or log-probabilities, if the graph outputs no logits) and log-probabilities of one row, (V,) each."""
        log_probs = self._log_probs(slice(row, row + 1))[0]
        return self.arrays["logits"][row].astype(np.float32, copy=False) if "logits" in self.arrays else log_probs, log_probs

    def _log_probs(self, index: npt.NDArray[np.intp] | slice) -> npt.NDArray[np.float32]:
        if "log_probs" in self.arrays:
            return self.arrays["log_probs"][index].astype(np.float32, copy=False)
        logits = self.arrays["logits"][index].astype(np.float32)
        shifted = logits - logits.max(-1, keepdims=True)
        result: npt.NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return result
