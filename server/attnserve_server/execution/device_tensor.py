# SPDX-License-Identifier: Apache-2.0
"""Tensors that stay on the CUDA device for as long as their owner lives, and views of parts of them.

ONNX Runtime has no call for a view from Python; an output bound by address and never computed is one. Its copies between host
and device, and from device to device, block until they are done, so that a run which follows sees them.
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
    """A tensor in device memory, zeros at first. Views hold no reference to it: whoever keeps them keeps it.

    Args:
        session: any session of the device; makes the views.
        shape: of the tensor.
        dtype: its element type.
        has_rows: its entries along the first axis are copied one at a time; their views are made now.
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
        """A view of each entry of the first axis, where it has rows."""

    def first(self, count: int) -> onnxruntime.OrtValue:
        """A view of the first entries of the first axis."""
        return self._view(self.address, (count, *self.shape[1:]))

    def numpy(self) -> Array:
        """A copy of all of it on the host."""
        result: Array = self._value.numpy()
        return result

    def _view(self, address: int, shape: Sequence[int]) -> onnxruntime.OrtValue:
        binding = self._session.io_binding()
        binding.bind_output(self._output, "cuda", 0, self.dtype.type, list(shape), address)
        return binding.get_outputs()[0]


class Layout:
    """Several small tensors beside one another in one block of bytes, so that one copy moves them all.

    Args:
        fields: shape and element type of each by name.
    """

    def __init__(self, fields: Mapping[str, tuple[Sequence[int], np.dtype[Any]]]) -> None:
        self.fields = dict(fields)
        self.offsets: dict[str, int] = {}
        self.size = 0
        for name, (shape, dtype) in self.fields.items():
            self.offsets[name] = self.size
            self.size += -(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT

    def split(self, block: npt.NDArray[np.uint8]) -> dict[str, Array]:
        """Typed views of a block on the host."""
        views: dict[str, Array] = {}
        for name, (shape, dtype) in self.fields.items():
            start = self.offsets[name]
            views[name] = block[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        return views
