# SPDX-License-Identifier: Apache-2.0
"""Small data sets in the form of CamVid, CIFAR-10 and the surveillance clips."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "frog")
"""Classes of the images; CIFAR-10 has them too."""


def write_camvid(data: Path, frames: Mapping[str, tuple[bytes, bytes]]) -> None:
    """Writes ``camvid/val.tar`` below a folder: an image file and a file of labels for each name."""
    (data / "camvid").mkdir()
    with tarfile.open(data / "camvid" / "val.tar", "w") as tar:
        for name, (image, labels) in frames.items():
            for path, content in ((f"images/{name}.jpg", image), (f"labels/{name}.png", labels)):
                member = tarfile.TarInfo(path)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def write_cifar10(data: Path, files: Sequence[bytes], labels: Sequence[int]) -> None:
    """Writes ``cifar10/val.npz`` below a folder, with ``CLASSES``."""
    (data / "cifar10").mkdir()
    np.savez(
        data / "cifar10" / "val.npz",
        jpeg=np.frombuffer(b"".join(files), np.uint8),
        offsets=np.cumsum([0, *map(len, files)]),
        labels=np.array(labels, np.uint8),
        classes=np.array(CLASSES),
        names=np.array([f"{index}.jpg" for index in range(len(files))]),
    )


def write_fight_video(data: Path) -> Path:
    """Writes ``fight_video/val.tar`` and its labels below a folder: three clips of four frames; returns the folder."""
    folder = data / "fight_video"
    folder.mkdir()
    facts = {f"clip-{number}": {"label": number % 2} for number in range(3)}
    (folder / "val.json").write_text(json.dumps(facts), encoding="utf-8")
    with tarfile.open(folder / "val.tar", "w") as tar:
        for number, name in enumerate(facts):
            file, member = io.BytesIO(), tarfile.TarInfo(f"{name}.jpg")
            Image.new("RGB", (16, 64), (60 * number, 0, 0)).save(file, "JPEG")
            member.size = len(file.getvalue())
            tar.addfile(member, io.BytesIO(file.getvalue()))
    return data
