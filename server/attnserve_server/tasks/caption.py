# SPDX-License-Identifier: Apache-2.0
"""Captions before and after the model: an image file to pixels, and pieces to text."""

from __future__ import annotations

from attnserve_server.bundle.loader import Bundle
from attnserve_server.tasks.images import ImageLimits, Picture, read_picture
from attnserve_server.tasks.text import TextTask


class CaptionTask(TextTask):
    """Both sides of one captioning model. Thread-safe."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        shape = bundle.manifest.image
        self._size = shape.width, shape.height
        self._num_cells = shape.grid_width * shape.grid_height

    def read(self, data: bytes, limits: ImageLimits) -> Picture:
        """The image in a file as the model reads it; see :func:`read_picture`."""
        return read_picture(data, limits, self._size, self._num_cells)
