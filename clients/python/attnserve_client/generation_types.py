# SPDX-License-Identifier: Apache-2.0
"""The answers of models that generate images; plain values, as those of ``pass_types.py``."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attnserve_client.errors import AttnserveError, ToolError
from attnserve_client.pass_types import PassTimings


@dataclass(frozen=True, slots=True)
class GenerationAttention:
    """Self-attention of one cell over the grid of cells, which covers the whole image (Zhang et al. 2019, eq. 1).

    Attributes:
        cell: row and column of the cell of the pixel that was asked for.
        maps: float32 (count, rows, columns): the weights of the cells that it attends to in each image, with sum 1.
    """

    cell: tuple[int, int]
    maps: NDArray[np.float32] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Generation:
    """Generated images of one class.

    Attributes:
        class_index: index of the class in the model's manifest.
        seed: the seed that was used; the same model, class and seed give the same images.
        width: width of an image in pixels.
        height: height of an image in pixels.
        count: number of images.
        files: PNG files: one for each image, or the one of the grid.
        columns: images in a row of the grid; 0 without a grid.
        attention: None unless requested.
        model: id of the model that answered.
        version: its version.
        timings: the time spent in each stage; the run is that of the first image, the batch the largest of all images.
    """

    class_index: int
    seed: int
    width: int
    height: int
    count: int
    files: tuple[bytes, ...] = field(repr=False)
    columns: int
    attention: GenerationAttention | None
    model: str
    version: str
    timings: PassTimings = field(compare=False)

    def pixels(self) -> NDArray[np.uint8]:
        """Returns the images in red, green and blue, uint8 (count, height, width, 3).

        Raises:
            AttnserveError: a file is not a PNG file of the size that the answer states.
            ToolError: Pillow is not installed.
        """
        rows, columns = (-(-self.count // self.columns), self.columns) if self.columns else (1, 1)
        found = [_decoded(each, columns * self.width, rows * self.height) for each in self.files]
        if not self.columns:
            return np.stack(found)
        cells = found[0].reshape(rows, self.height, columns, self.width, 3).swapaxes(1, 2)
        images: NDArray[np.uint8] = cells.reshape(-1, self.height, self.width, 3)[: self.count]
        return images


def _decoded(file: bytes, width: int, height: int) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ToolError('images as pixels need Pillow: pip install "attnserve[cli]"') from error
    try:
        with Image.open(io.BytesIO(file), formats=["PNG"]) as image:
            if image.size != (width, height):
                raise ValueError(f"its size is {image.size[0]} × {image.size[1]}, not {width} × {height}")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise AttnserveError(f"an image in the server's answer is not a usable PNG file: {error}", code="INTERNAL") from error
