# SPDX-License-Identifier: Apache-2.0
"""Tensors in CUDA device memory, allocated as long as their owner, and views of parts of them.

ONNX Runtime has no Python call for a view; an output that is bound by address and never computed serves as one. ONNX Runtime's
copies between host and device, and from device to device, are synchronous, so that the next run reads the copied values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[np.generic]
_ALIGNMENT = 256


class DeviceTensor:
    """A tensor in device memory, initially zeros. Views hold no reference to it: the owner of a view must keep the tensor too.

    Args:
        session: any session of the device; makes the views.
        shape: shape of the tensor.
        dtype: element type.
        has_rows: whether to make a view of each entry of the first axis, for copies of single rows.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, shape: Sequence[int], dtype: np.dtype[Any], *, has_rows: bool = False
    ) -> None:
        self.shape, self.dtype = tuple(shape), dtype
        self._value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.type, "cuda", 0)
        self._value.update_inplace(np.zeros(shape, dtype))
        self.address: int = self._value.data_ptr()
        self._session, self._output = session, session.get_outputs()[0].name
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self.rows = [self._view(self.address + index * row_bytes, shape[1:]) for index in range(shape[0] if has_rows else 0)]
        """A view of each entry of the first axis; empty without ``has_rows``."""

    def first(self, count: int) -> onnxruntime.OrtValue:
        """Returns a view of the first ``count`` entries of the first axis."""
        return self._view(self.address, (count, *self.shape[1:]))

    def numpy(self) -> Array:
        """Returns a copy of the tensor on the host."""
        result: Array = self._value.numpy()
        return result

    def _view(self, address: int, shape: Sequence[int]) -> onnxruntime.OrtValue:
        binding = self._session.io_binding()
        binding.bind_output(self._output, "cuda", 0, self.dtype.type, list(shape), address)
        return binding.get_outputs()[0]


class Layout:
    """Several small tensors packed into one block of bytes, so that one copy moves them all.

    Args:
        fields: shape and element type of each tensor, by name.
    """

    def __init__(self, fields: Mapping[str, tuple[Sequence[int], np.dtype[Any]]]) -> None:
        self.fields = dict(fields)
        self.offsets: dict[str, int] = {}
        self.size = 0
        for name, (shape, dtype) in self.fields.items():
            self.offsets[name] = self.size
            self.size += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT

    def split(self, block: npt.NDArray[np.uint8]) -> dict[str, Array]:
        """Returns typed views of a block on the host, by name."""
        views: dict[str, Array] = {}
        for name, (shape, dtype) in self.fields.items():
            start = self.offsets[name]
            views[name] = block[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        return views
