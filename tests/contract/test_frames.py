# SPDX-License-Identifier: Apache-2.0
"""The server samples the frames of a clip as the training does, and the manifest's cells in time are those of the model."""

from __future__ import annotations

import pytest

from attnserve_export.graphs.nonlocal_video import FIRST_FRAME
from attnserve_export.models.nonlocal_video import FRAMES, TIME_POOL, grid
from attnserve_export.training.video import data
from attnserve_server.tasks.clips.wire import sample_frames


@pytest.mark.parametrize("wanted", [1, 2, 3, 7, 8, 16, 31, 32, 33, 64, 100])
def test_server_and_training_sample_the_same_frames(wanted: int) -> None:
    for count in (*range(1, 1500), 2999, 3000, 10_007):
        assert sample_frames(count, wanted) == data.sample_frames(count, wanted), count


def test_no_frames_are_an_error_on_both_sides() -> None:
    for function in (sample_frames, data.sample_frames):
        with pytest.raises(ValueError, match="at least one frame"):
            function(0, FRAMES)


def test_cells_in_time_end_with_the_clip() -> None:
    assert FIRST_FRAME + grid()[0] * TIME_POOL == FRAMES
