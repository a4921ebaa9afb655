# SPDX-License-Identifier: Apache-2.0
"""The gain of Disentangled Non-local over plain Non-local and over no block: paired runs on the same cached features.

``python -m attnserve_export.training.segmentation.gain --runs DIR`` prints the table when the runs of this recipe in the
queue ``four-models`` are done.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

from attnserve_export.cli import RUNS, RunsOption
from attnserve_export.training.intervals import Interval, consecutive_blocks, paired_interval
from attnserve_export.training.report import OutputOption, report
from attnserve_export.training.run import SUMMARY
from attnserve_export.training.segmentation.scores import Confusion, mean_iou
from attnserve_export.training.segmentation.trainer import VAL
from attnserve_export.training.start import folder_name

RECIPE, SEEDS = "dnl-camvid-gain", (1, 2, 3, 4, 5)
BLOCKS = ("dnl", "nonlocal", "none")
PAIRS = (("dnl", "none"), ("nonlocal", "none"), ("dnl", "nonlocal"))
BLOCK_FRAMES = 10
"""Length of the blocks of consecutive val frames that are drawn together: two thirds of a second."""


def read_run(runs: Path, block: str, seed: int, recipe: str = RECIPE) -> tuple[Confusion, dict[str, Any]]:
    """Returns a finished run's confusion matrix of each val frame, and its summary.

    Raises:
        FileNotFoundError: the run is not finished.
    """
    folder = runs / folder_name(recipe, {"model.block": block, "seed": seed})
    if not (folder / SUMMARY).exists():
        raise FileNotFoundError(f"{folder} has no {SUMMARY}: the run is not finished")
    found: Confusion = torch.load(folder / VAL, weights_only=True)["confusions"].numpy()
    return found, json.loads((folder / SUMMARY).read_text(encoding="utf-8"))


def gains(runs: Path, seeds: Sequence[int] = SEEDS, draws: int = 2000) -> dict[str, Any]:
    """Returns the mean IoU of each run on val, and the gain of each pair with its 95 % interval, in points.

    Raises:
        FileNotFoundError: a run is not finished.
    """
    found = {block: [read_run(runs, block, seed) for seed in seeds] for block in BLOCKS}
    confusions = {block: [run[0] for run in found[block]] for block in BLOCKS}
    blocks = consecutive_blocks(len(confusions[BLOCKS[0]][0]), BLOCK_FRAMES)
    return {
        "evaluation": "segmentation_gain",
        "seeds": list(seeds),
        "block_frames": BLOCK_FRAMES,
        "val_miou": {block: [round(mean_iou(each), 2) for each in confusions[block]] for block in BLOCKS},
        "held_back_miou": {block: [_selected(summary) for _, summary in found[block]] for block in BLOCKS},
        "gains": {
            f"{ours} - {twin}": _as_list(paired_interval(confusions[ours], confusions[twin], mean_iou, blocks, draws=draws))
            for ours, twin in PAIRS
        },
    }


def _selected(summary: dict[str, Any]) -> float:
    return round(float(summary["log"][summary["kept_epoch"] - 1]["held_back_miou"]), 2)


def _as_list(interval: Interval) -> list[float]:
    return [round(each, 2) for each in (interval.mean, interval.low, interval.high)]


def table(found: dict[str, Any]) -> str:
    """Formats the result of :func:`gains` as lines of text."""
    rows = [f"{'block':<10}" + "".join(f"{f'seed {seed}':>9}" for seed in found["seeds"]) + f"{'mean':>9}  (val mIoU, %)"]
    for block, scores in found["val_miou"].items():
        rows.append(f"{block:<10}" + "".join(f"{score:9.2f}" for score in (*scores, float(np.mean(scores)))))
    rows.append("gain in points, mean [95 % interval] over seeds and blocks of frames:")
    rows += [f"{pair:<18} {Interval(*interval)}" for pair, interval in found["gains"].items()]
    return "\n".join(rows)


def main(
    runs: RunsOption = RUNS,
    output: OutputOption = None,
) -> None:
    """Print the gain of each block over its twins."""
    report(lambda: gains(runs.expanduser()), output, table)


if __name__ == "__main__":
    typer.run(main)
