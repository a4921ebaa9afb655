# SPDX-License-Identifier: Apache-2.0
"""Geometry of a picture in a model's input: which size it gets, and which of its pixels is where. Integer arithmetic, so exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnserve.v1 import manifest_pb2

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A picture in an input.

    Args:
        size: size of the input.
        inside: size of the scaled picture, in the upper left corner of the input; the rest is padding.
        original: size of the upright original.
    """

    size: Size
    inside: Size
    original: Size

    def column_of(self, x: int) -> int:
        """Returns the input's column that is nearest to the centre of the original's column ``x``."""
        return (2 * x + 1) * self.inside[0] // (2 * self.original[0])

    def row_of(self, y: int) -> int:
        """Returns the input's row that is nearest to the centre of the original's row ``y``."""
        return (2 * y + 1) * self.inside[1] // (2 * self.original[1])


@dataclass(frozen=True, slots=True)
class InputSizes:
    """Sizes of a model's input.

    Args:
        sizes: at least one.
        pads: whether a picture keeps its aspect ratio and is padded; otherwise it is stretched to the whole input.
    """

    sizes: tuple[Size, ...]
    pads: bool = False

    @classmethod
    def of(cls, declared: manifest_pb2.PictureInput) -> InputSizes:
        """Returns those of a manifest."""
        sizes = tuple((size.width, size.height) for size in declared.sizes)
        return cls(sizes, declared.fit == manifest_pb2.FIT_PAD)

    def fitted(self, width: int, height: int) -> Fitted:
        """Chooses the size that needs the least share of padding, the first of equal ones, and scales the picture into it."""
        size = max(self.sizes, key=lambda each: _covered(each, (width, height)))
        return Fitted(size, _inside(size, (width, height)) if self.pads else size, (width, height))


def nearest(source: int, target: int) -> npt.NDArray[np.intp]:
    """Returns which of ``source`` pixels is nearest to the centre of each of ``target`` pixels, by index; the higher one of two."""
    return (2 * np.arange(target) + 1) * source // (2 * target)


def _covered(size: Size, picture: Size) -> float:
    """Returns the share of an input that a picture covers; equal shares are equal numbers, as quotients are rounded correctly."""
    one, other = size[0] * picture[1], size[1] * picture[0]
    return min(one, other) / max(one, other)


def _inside(size: Size, picture: Size) -> Size:
    """Returns the largest size inside an input that has a picture's aspect ratio, rounded to at least 1 x 1."""
    (width, height), (w, h) = size, picture
    if width * h <= height * w:
        return width, max(1, (2 * h * width + w) // (2 * w))
    return max(1, (2 * w * height + h) // (2 * h)), height
