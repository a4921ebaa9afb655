# SPDX-License-Identifier: Apache-2.0
"""BentoML with the graph; ``PASSES_SETTINGS`` names the file of the settings. Pictures come as files ``image`` or ``images``."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Annotated, Any

import bentoml  # pyright: ignore[reportMissingImports]
from bentoml.validators import ContentType  # pyright: ignore[reportMissingImports]
from PIL import Image

from attnserve_loadtest.bench.passes.work import Settings, Work

SETTINGS = Settings.read(Path(os.environ["PASSES_SETTINGS"]))
NO_LIMIT_MS = 600_000
"""Latency after which the dispatcher of batches refuses requests; far away, because no request of the bench may be refused."""


class _Model:
    def __init__(self) -> None:
        self.work = Work(SETTINGS)


class _Maps(_Model):
    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    def predict(self, image: Image.Image, ctx: bentoml.Context) -> Annotated[bytes, ContentType("image/png")]:
        """The class map, with the classes' areas in a header."""
        sample = self.work.read(image)
        png, areas = self.work.drawn(self.work.run([sample])[0], sample)
        ctx.response.headers["X-Classes"] = json.dumps(areas)
        return png


class _Tops(_Model):
    @bentoml.api(route="/predict")  # type: ignore[untyped-decorator]
    def predict(self, image: Image.Image) -> dict[str, Any]:
        """The most probable classes."""
        return self.work.top(self.work.run([self.work.read(image)])[0])


class _BatchedMaps(_Model):
    @bentoml.api(  # type: ignore[untyped-decorator]
        route="/predict", batchable=True, max_batch_size=max(2, SETTINGS.batch_size), max_latency_ms=NO_LIMIT_MS
    )
    def predict(self, images: list[Image.Image]) -> list[dict[str, Any]]:
        """Class maps as base64, because a batched answer cannot be a file."""
        samples = [self.work.read(image) for image in images]
        drawn = [self.work.drawn(outputs, sample) for outputs, sample in zip(self.work.run(samples), samples, strict=True)]
        return [{"png": base64.b64encode(png).decode(), "classes": areas} for png, areas in drawn]


class _BatchedTops(_Model):
    @bentoml.api(  # type: ignore[untyped-decorator]
        route="/predict", batchable=True, max_batch_size=max(2, SETTINGS.batch_size), max_latency_ms=NO_LIMIT_MS
    )
    def predict(self, images: list[Image.Image]) -> list[dict[str, Any]]:
        """The most probable classes."""
        return [self.work.top(outputs) for outputs in self.work.run([self.work.read(image) for image in images])]


_KINDS = {
    ("segmentation", False): _Maps,
    ("segmentation", True): _BatchedMaps,
    ("classification", False): _Tops,
    ("classification", True): _BatchedTops,
}
Served = bentoml.service(
    name="passes", workers=SETTINGS.workers, threads=1, traffic={"timeout": 600}, logging={"access": {"enabled": False}}
)(_KINDS[SETTINGS.task, SETTINGS.batch_size > 1])
