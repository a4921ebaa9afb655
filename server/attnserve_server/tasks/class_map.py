# SPDX-License-Identifier: Apache-2.0
"""Class maps: from the input's size to the image's own, in the form that was asked for, and what share each class has.

Nearest scaling repeats or drops whole rows and columns. So each pixel of the small map stands for (times its row occurs) x (times
its column occurs) pixels of the large one, and the shares are exact without counting those.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from attnserve_server.tasks.answers import ClassArea, ClassRuns
from attnserve_server.tasks.fit import Size, nearest

RUNS_TYPE = 3
"""zlib's strategy Z_RLE. For class maps its files are smaller than those of other strategies at any level, in the same time."""
_VALUES = 256
_LEVELS = np.arange(_VALUES) / (_VALUES - 1)
_CHUNK = 8192
"""Pixels that are counted at once. NumPy copies them to 8 bytes each; so little memory is not new, and stays in the cache."""

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ClassMap:
    """A class map that is scaled to another size by the nearest pixel's centre.

    Args:
        small: (height, width), the class of each pixel.
        size: width and height to scale it to.
    """

    small: Bytes
    size: Size

    @cached_property
    def full(self) -> Bytes:
        """The scaled map (height, width)."""
        (height, width), target = self.small.shape, self.size
        rows = self.small if width == target[0] else np.take(self.small, nearest(width, target[0]), axis=1)
        return np.ascontiguousarray(rows if height == target[1] else np.take(rows, nearest(height, target[1]), axis=0))

    def areas(self, confidence: Bytes) -> list[ClassArea]:
        """Returns all classes up to the last one of the small map.

        Args:
            confidence: (height, width) of the small map, the probability of each pixel's class in units of 1/255.
        """
        num_classes, of_rows, of_columns = int(self.small.max()) + 1, *self._repeats()
        counts = np.zeros(num_classes * _VALUES)
        height, width = self.small.shape
        step = max(_CHUNK // width, 1)
        both = np.empty((step, width, 2), np.uint8)  # one joint histogram counts faster than two weighted ones
        joint = both.reshape(-1).view("<u2")
        for begin in range(0, height, step):
            rows = slice(begin, min(begin + step, height))
            num_rows = rows.stop - begin
            both[:num_rows, :, 0], both[:num_rows, :, 1] = confidence[rows], self.small[rows]
            repeats = None if of_columns is None else np.outer(of_rows[rows], of_columns).reshape(-1)
            counts += np.bincount(joint[: num_rows * width], repeats, counts.size)
        by_value = counts.reshape(num_classes, _VALUES)
        pixels = by_value.sum(1)
        means = by_value @ _LEVELS / np.maximum(pixels, 1)
        return [ClassArea(*each) for each in zip(range(num_classes), (pixels / pixels.sum()).tolist(), means.tolist(), strict=True)]

    def _repeats(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64] | None]:
        """Returns how often each row and column occurs in the scaled map; no columns if all pixels occur equally often."""
        (height, width), (columns, rows) = self.small.shape, self.size
        if rows % height == 0 and columns % width == 0:
            return np.ones(height), None
        of_rows = np.bincount(nearest(height, rows), minlength=height)
        of_columns = np.bincount(nearest(width, columns), minlength=width)
        return of_rows.astype(np.float64), of_columns.astype(np.float64)

    def png(self, palette: bytes) -> bytes:
        """Returns an indexed PNG file of the scaled map; ``palette`` has red, green and blue of each class."""
        image = Image.frombuffer("P", self.size, self.full, "raw", "P", 0, 1)
        image.putpalette(palette)
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=1, compress_type=RUNS_TYPE)
        return file.getvalue()

    def runs(self) -> ClassRuns:
        """Returns the runs of the scaled map in row-major order."""
        flat = self.full.reshape(-1)
        begins = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
        return ClassRuns(flat[begins], np.diff(begins, append=flat.size))

    def raw(self) -> bytes:
        """Returns the scaled map, one byte for each pixel."""
        return self.full.tobytes()
