# SPDX-License-Identifier: Apache-2.0
"""``attnserve evaluate video`` and ``attnserve evaluate video-skew``."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from attnserve_client.channel import DEFAULT_TIMEOUT_S
from attnserve_client.cli import clips, output
from attnserve_client.cli.evaluate_images import answered_items, classes_of, result_of, rounded
from attnserve_client.cli.options import AsJson, ModelId, Timeout
from attnserve_client.cli.server import DEFAULT_SERVER, Server, takes_server
from attnserve_client.client import Client
from attnserve_client.confusion import Confusion
from attnserve_client.video_types import VideoClassification

SIZES = ((112, 112), (320, 240))
"""Width and height of encoded clips: that of the data set's frames, and that of many cameras."""


@takes_server
def evaluate_video(
    data: clips.FightFolder = None,
    split: clips.SplitName = "val",
    server: Server = DEFAULT_SERVER,
    model: ModelId = "",
    limit: clips.Limit = None,
    as_json: AsJson = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Classify the clips of a data set, sent as frames without loss, and score the most probable classes: one JSON object.

    accuracy is the share of clips in percent, class_accuracy that of each class; confusion has a row for each true class
    and a column for each predicted one.
    """
    found = clips.read_fight_video(data, split, limit)
    with server.client(timeout=timeout) as client:
        answers = client.classify_video_many((each.files() for each in found), model=model, top_k=1)
        start, matrix, classes, answered_by = time.monotonic(), Confusion(0), list[str](), model
        for each, answer in answered_items(found, answers, "classifying"):
            if not classes:
                classes, answered_by = classes_of(client, answer.model, {clip.label for clip in found}), answer.model
                matrix = Confusion(len(classes))
            matrix.add(np.array([classes.index(each.label)]), np.array([answer.best.index]))
        scores = {
            "accuracy": rounded(matrix.accuracy()),
            "class_accuracy": dict(zip(classes, map(rounded, matrix.recalls()), strict=True)),
            "confusion": matrix.counts.tolist(),
        }
        result = result_of(client, "video", scores, start, answered_by)
    output.print_json(result | {"clips": len(found), "split": split, "limit": limit}, indent=None if as_json else 2)


@takes_server
def evaluate_video_skew(
    data: clips.FightFolder = None,
    split: clips.SplitName = "val",
    server: Server = DEFAULT_SERVER,
    model: ModelId = "",
    limit: clips.Limit = None,
    as_json: AsJson = False,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Compare the answers to clips encoded as H.264, VP9 and GIF with those to their frames: one JSON object.

    same_class is the percentage of clips whose most probable class is the same; the differences are those of the
    probability of that class.
    """
    found = clips.read_fight_video(data, split, limit)
    with server.client(timeout=timeout) as client:
        start = time.monotonic()
        wanted = [
            answer
            for _, answer in answered_items(
                found, client.classify_video_many((each.files() for each in found), model=model), "frames"
            )
        ]
        encodings = [
            {"codec": codec, "width": size[0], "height": size[1], **_compared(client, found, wanted, codec, size)}
            for codec in clips.CODECS
            for size in SIZES
        ]
        result = result_of(client, "video_skew", {"encodings": encodings}, start, wanted[0].model if wanted else model)
    output.print_json(result | {"clips": len(found), "split": split, "limit": limit}, indent=None if as_json else 2)


def _compared(
    client: Client, found: list[clips.LabelledClip], wanted: list[VideoClassification], codec: str, size: tuple[int, int]
) -> dict[str, Any]:
    """Sends the clips as files; returns how their answers differ from those that are wanted."""
    files = (clips.encoded(each.frames, codec, size) for each in found)
    model = wanted[0].model if wanted else ""
    answers = client.classify_video_many(files, model=model, version=wanted[0].version if wanted else "")
    same, differences = 0, list[float]()
    what = f"{codec} {size[0]}x{size[1]}"
    for (_, answer), other in zip(answered_items(found, answers, what), wanted, strict=True):
        same += answer.best.index == other.best.index
        again = next(each.probability for each in answer.classes if each.index == other.best.index)
        differences.append(abs(again - other.best.probability))
    return {
        "same_class": round(100 * same / len(differences), 2),
        "mean_difference": round(float(np.mean(differences)), 5),
        "largest_difference": round(max(differences), 5),
    }
