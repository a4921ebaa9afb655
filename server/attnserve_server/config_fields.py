# SPDX-License-Identifier: Apache-2.0
"""What the sections of the configuration are made of: value types with their limits, and flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec


@dataclass(frozen=True, slots=True)
class Flag:
    """Gives a setting a flag of `attnserve serve`.

    Attributes:
        help: description of the setting, without a period; empty for a list of its allowed values.
        name: with underscores; empty for the field's name. One flag sets all settings with its name.
        default: the default as the help shows it; empty for the field's value.
    """

    help: str = ""
    name: str = ""
    default: str = ""


Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
CountOrAuto = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
PositiveSeconds = Annotated[float, msgspec.Meta(ge=0.001, le=86_400)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
