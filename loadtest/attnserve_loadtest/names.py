# SPDX-License-Identifier: Apache-2.0
"""Names of what is measured, in Locust's statistics, in reports and in objectives."""

from __future__ import annotations

UNARY, STREAM = "Translate", "TranslateStream"
FIRST_PIECE, BETWEEN_PIECES = f"{STREAM} first piece", f"{STREAM} between pieces"
