# SPDX-License-Identifier: Apache-2.0
"""The answers of models that classify a clip; see ``pass_types.py``."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from attnserve_client.pass_types import ClassProbability, PassTimings


@dataclass(frozen=True, slots=True)
class SampledFrame:
    """A frame of a clip that the model read.

    Attributes:
        index: among the clip's frames. A frame of a short clip may be sampled more than once.
        seconds: its time in the clip; 0 if the clip was sent as frames.
        time: index of the cells in time that it belongs to.
        picture: the frame as the model read it, a JPEG file; empty unless requested.
    """

    index: int
    seconds: float
    time: int
    picture: bytes = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class PositionMap:
    """Attention of one space-time position over all cells of the clip (Wang et al. 2018, eq. 1).

    Attributes:
        query: the position that was asked for: index of a sampled frame, shares of its width and height.
        cell: its cell: time, row, column.
        weights: float32 (times, rows, columns), with sum 1.
    """

    query: tuple[int, float, float]
    cell: tuple[int, int, int]
    weights: NDArray[np.float32] = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class VideoClassification:
    """The most probable classes of a clip.

    Attributes:
        classes: most probable first, at least one.
        frames: the sampled frames, in order.
        clip_frames: number of frames of the clip.
        attention: one map for each query, in the order of the request.
        model: id of the model that answered.
        version: its version.
        timings: the time spent in each stage.
    """

    classes: tuple[ClassProbability, ...]
    frames: tuple[SampledFrame, ...]
    clip_frames: int
    attention: tuple[PositionMap, ...]
    model: str
    version: str
    timings: PassTimings = field(compare=False)

    @property
    def best(self) -> ClassProbability:
        """The most probable class."""
        return self.classes[0]
