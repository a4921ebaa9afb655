# SPDX-License-Identifier: Apache-2.0
"""Label-smoothed cross entropy through a linear output layer, forward and backward in one pass, in chunks of rows.

The (tokens, vocabulary) matrix is the largest tensor of a translation model's update. Here it is never in memory as a whole:
each chunk of it uses the same buffer, and its gradient overwrites it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1024
_SMALLEST = torch.finfo(torch.float32).tiny


class SmoothedCrossEntropy:
    """The loss of Vaswani et al. 2017, section 5.4: weight 1 - ``smoothing`` on the label, the rest uniform.

    An object keeps its buffer between calls; use one object for each thread.
    """

    def __init__(self, smoothing: float, pad_id: int = 0) -> None:
        self.smoothing, self.pad_id = smoothing, pad_id
        self._buffer = torch.empty(0)

    def __call__(self, hidden: Tensor, target: Tensor, weight: Tensor, *, backward: bool = True) -> tuple[float, int]:
        """Computes the mean over the target tokens that are not padding, and its backward pass unless ``backward`` is false.

        Args:
            hidden: (B, T, d), the input of the output layer.
            target: int64 (B, T).
            weight: (V, d), the output layer's matrix, a parameter; its gradient is added to ``weight.grad``.
            backward: also run the backward pass, through ``hidden``.

        Returns:
            The sum of the plain negative log-likelihood in nats, and the number of target tokens.
        """
        keep = target.reshape(-1) != self.pad_id
        rows, labels = hidden.reshape(-1, hidden.shape[-1])[keep], target.reshape(-1)[keep]
        num_tokens = len(labels)
        matrix = weight.detach()
        grad_rows = torch.empty_like(rows) if backward else None
        if backward and weight.grad is None:
            weight.grad = torch.zeros_like(matrix)
        total = 0.0
        for start in range(0, num_tokens, _CHUNK):
            part, label = rows.detach()[start : start + _CHUNK], labels[start : start + _CHUNK, None]
            logits = self._space(len(part), matrix)
            torch.mm(part, matrix.t(), out=logits)
            probability = torch.softmax(logits, -1, out=logits)  # in place: one pass of exponentials for loss and gradient
            total -= float(probability.gather(-1, label).clamp_(min=_SMALLEST).log_().sum())
            if grad_rows is not None and weight.grad is not None:
                grad = probability.sub_(self.smoothing / len(matrix))
                grad.scatter_add_(-1, label, grad.new_full(label.shape, self.smoothing - 1.0)).div_(num_tokens)
                torch.mm(grad, matrix, out=grad_rows[start : start + _CHUNK])
                weight.grad.addmm_(grad.t(), part)
        if grad_rows is not None:
            rows.backward(grad_rows)
        return total, num_tokens

    def _space(self, num_rows: int, matrix: Tensor) -> Tensor:
        if self._buffer.shape != (_CHUNK, len(matrix)) or self._buffer.device != matrix.device:
            self._buffer = matrix.new_empty(_CHUNK, len(matrix))
        return self._buffer[:num_rows]
