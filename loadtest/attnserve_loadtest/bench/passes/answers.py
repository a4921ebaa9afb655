# SPDX-License-Identifier: Apache-2.0
"""Compares the peers' answers with ours, so that all sides are known to do the same work."""

from __future__ import annotations

import base64
import io
import json
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from attnserve.v1 import classification_pb2, segmentation_pb2
from attnserve_client.errors import ToolError
from attnserve_loadtest.bench.passes.client import load
from attnserve_loadtest.bench.passes.sides import OURS, Side

LEAST = {"classification": 1.0, "segmentation": 0.98}
"""Share of pictures with the same best class, or of pixels with the same class, which may differ at edges by rounding."""


def check_same(running: Sequence[Side], task: str) -> dict[str, float]:
    """The agreement of each peer's answers with ours, from 0 to 1, over all pictures.

    Raises:
        ToolError: it is below :data:`LEAST`.
    """
    found = {side.name: _answers(side, task) for side in running}
    shares = {name: agreement(found[OURS], answers) for name, answers in found.items() if name != OURS}
    for name, share in shares.items():
        if share < LEAST[task]:
            raise ToolError(f"the answers of {name} are not ours: they agree in {share:.1%}")
    return shares


def agreement(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """The mean share of equal classes."""
    return statistics.mean(float(np.mean(a == b)) if np.shape(a) == np.shape(b) else 0.0 for a, b in zip(ours, theirs, strict=True))


def _answers(side: Side, task: str) -> list[Any]:
    """Of each picture: the class map, or the name of the best class."""
    read = _class_map if task == "segmentation" else _best
    return [read(body, side.name) for body in load(side.target, 1, len(side.target.bodies))[0].answers]


def _class_map(body: bytes, side: str) -> Any:
    if side == OURS:
        body = segmentation_pb2.SegmentResponse.FromString(body).map.png
    elif body[:1] == b"[":
        body = base64.b64decode(json.loads(body)[0]["png"])
    with Image.open(io.BytesIO(body)) as image:
        return np.asarray(image)


def _best(body: bytes, side: str) -> str:
    if side == OURS:
        return classification_pb2.ClassifyImageResponse.FromString(body).classes[0].name
    answer: Any = json.loads(body)
    return str((answer[0] if isinstance(answer, list) else answer)["classes"][0]["name"])
