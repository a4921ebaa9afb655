# SPDX-License-Identifier: Apache-2.0
"""The labelled images of an evaluation: CamVid, CIFAR-10, or folders of any images."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from attnserve_client.cli.images import find_images
from attnserve_client.errors import ToolError

CAMVID_VOID = 11
"""Label of CamVid's pixels that no score counts."""

CamVidFolder = Annotated[
    Path | None, typer.Option("--data", envvar="ATTNSERVE_DATA", metavar="DIR", help="Folder of data sets, with camvid/ in it.")
]
Cifar10Folder = Annotated[
    Path | None, typer.Option("--data", envvar="ATTNSERVE_DATA", metavar="DIR", help="Folder of data sets, with cifar10/ in it.")
]
SplitName = Annotated[str, typer.Option("--split", metavar="NAME", help="Split of the data set.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N images.")]

ImageSource = bytes | Path
"""A file's bytes, or its path, which is read when it is needed."""


@dataclass(frozen=True, slots=True)
class LabelledPixels:
    """An image and the image of its pixels' classes."""

    name: str
    image: ImageSource
    label: ImageSource

    def labels(self) -> NDArray[np.uint8]:
        """Returns the class of each pixel, uint8 (height, width).

        Raises:
            ToolError: the file of labels cannot be read, or is not a grey or indexed image.
        """
        try:
            with Image.open(io.BytesIO(self.label) if isinstance(self.label, bytes) else self.label) as image:
                if image.mode not in ("L", "P"):
                    raise ValueError(f"it has the mode {image.mode}, not L or P")
                return np.asarray(image)
        except (OSError, ValueError) as error:
            raise ToolError(f"cannot read the labels of {self.name}: {error}") from error


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image and the name of its class."""

    name: str
    image: ImageSource
    label: str


def read_camvid(data: Path | None, split: str, limit: int | None) -> list[LabelledPixels]:
    """Reads a split of CamVid, sorted by name.

    Raises:
        ToolError: the data set is missing or invalid.
    """
    file = _folder(data, "camvid") / f"{split}.tar"
    if not file.is_file():
        raise ToolError(f"no file {file}: is {split} a split of camvid?")
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(file) as tar:
            for member in tar:
                if (content := tar.extractfile(member)) is not None:
                    found[member.name] = content.read()
        names = sorted(Path(name).stem for name in found if name.startswith("images/"))[:limit]
        return [LabelledPixels(name, found[f"images/{name}.jpg"], found[f"labels/{name}.png"]) for name in names]
    except (OSError, KeyError, tarfile.TarError) as error:
        raise ToolError(f"cannot read {file}: {error}") from error


def read_cifar10(data: Path | None, split: str, limit: int | None) -> list[LabelledImage]:
    """Reads a split of CIFAR-10, in the order of its file.

    Raises:
        ToolError: the data set is missing or invalid.
    """
    file = _folder(data, "cifar10") / f"{split}.npz"
    if not file.is_file():
        raise ToolError(f"no file {file}: is {split} a split of cifar10?")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            files, offsets = arrays["jpeg"].tobytes(), arrays["offsets"].tolist()
            names, labels, classes = (arrays[key].tolist() for key in ("names", "labels", "classes"))
        spans = list(zip(names, offsets[:-1], offsets[1:], labels, strict=True))[:limit]
        return [LabelledImage(name, files[begin:end], classes[label]) for name, begin, end, label in spans]
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise ToolError(f"cannot read {file}: {error}") from error


def read_pairs(images: Path, labels: Path, limit: int | None) -> list[LabelledPixels]:
    """Finds the images of a folder, and in another folder the PNG file of the same stem with the labels of each.

    Raises:
        ToolError: there is no image, or an image has no labels.
    """
    pairs = [LabelledPixels(path.name, path, labels / f"{path.stem}.png") for path in find_images([images])[:limit]]
    for each in pairs:
        if isinstance(each.label, Path) and not each.label.is_file():
            raise ToolError(f"no file {each.label}, the labels of {each.name}")
    return pairs


def read_classes(images: Path, limit: int | None) -> list[LabelledImage]:
    """Finds the images in the subfolders of a folder; a subfolder's name is the class of its images.

    Raises:
        ToolError: there is no folder or no subfolder, or a subfolder has no images.
    """
    folders = sorted(path for path in images.iterdir() if path.is_dir()) if images.is_dir() else []
    if not folders:
        raise ToolError(f"no folders in {images}: it must have a folder of images for each class")
    found = [LabelledImage(f"{each.name}/{path.name}", path, each.name) for each in folders for path in find_images([each])]
    return found[:limit]


def _folder(data: Path | None, name: str) -> Path:
    if data is None:
        raise ToolError("name the folder of data sets with --data or ATTNSERVE_DATA, or a folder of images with --images")
    if not (data / name).is_dir():
        raise ToolError(f"no folder {data / name}: --data (or ATTNSERVE_DATA) must name the folder that holds {name}/")
    return data / name
