# SPDX-License-Identifier: Apache-2.0
"""The sections of the configuration about tasks: default models, and the limits of clips."""

from __future__ import annotations

from typing import Annotated

import msgspec

from attnserve_server.setting_types import Count


class DefaultModelsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Default model of each task, for requests without a model id.

    Empty for the default in the model repository's ``defaults.toml``, or else the first model by name.
    """

    translation: str = ""
    caption: str = ""
    segmentation: str = ""
    classification: str = ""
    video_classification: str = ""
    generation: str = ""


class VideoConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of clips."""

    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 10_000_000
    """Larger video files, or frames of a clip together, are refused before they are opened."""
    max_frames: Count = 3_000
    """Clips of more frames are refused."""
    max_pixels: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] = 2_100_000
    """Clips whose frames have more pixels are refused before they are decoded."""
    max_seconds: Annotated[float, msgspec.Meta(ge=0.001, le=86_400)] = 120.0
    """Clips that last longer are refused."""
