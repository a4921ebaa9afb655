# SPDX-License-Identifier: Apache-2.0
"""Which characters of a text can be seen, by their Unicode properties."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
"""General categories of control and format characters and of white space."""
_IGNORABLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Default_Ignorable_Code_Point of other categories: variation selectors, fillers, the combining grapheme joiner."""


def is_visible(character: str) -> bool:
    """Whether one character can be seen."""
    return unicodedata.category(character) not in _INVISIBLE and _IGNORABLE.match(character) is None


def has_visible(text: str) -> bool:
    """Whether a text has a character that can be seen."""
    return any(map(is_visible, text))
