# SPDX-License-Identifier: Apache-2.0
"""Single-pass models that are only a manifest, and a front that answers for them; class maps and attention follow from the pixels.

A pixel's class is its red value // 64 of 3, its confidence its green value. The attention falls with the index of the cell.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.engine.front.draining import Draining
from attnserve_server.engine.front.served_models import ServedModel
from attnserve_server.errors import ModelNotFound
from attnserve_server.kinds import SINGLE_PASS
from attnserve_server.passes import PassOutcome, PassPayload, PassTensor
from attnserve_server.request import Done, Terms
from attnserve_server.tasks.registry import CLASSIFICATION, GENERATION, SEGMENTATION, VIDEO_CLASSIFICATION, TaskSpec

SIZES = ((480, 360), (360, 480), (480, 272), (480, 480))
CELL, NUM_QUERIES = 16, 16
COLOURS = {"road": 0x804080, "building": 0x800000, "sky": 0x8080FF, "car": 0x400080}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ROLES = manifest_pb2.AttentionRole
SEGMENTER, CLASSIFIER, WATCHER, GENERATOR = "segmenter", "classifier", "watcher", "generator"
CLIP_FRAMES, CLIP_SIDE, CLIP_CELLS = 8, 32, (2, 3, 4)
LATENT, GENERATED, GENERATED_CELL = 5, (8, 6), 2
"""Size of the latent vector; width and height of an image, and pixels of a cell."""


def _graph(outputs: tuple[str, ...], *, gives_attention: bool) -> manifest_pb2.PassGraph:
    graph = manifest_pb2.Graph(outputs=[manifest_pb2.Tensor(name=name) for name in outputs])
    if gives_attention:
        graph.inputs.add(name="query", axes=["batch", str(NUM_QUERIES)])
    return manifest_pb2.PassGraph(graph=graph, gives_attention=gives_attention, max_batch=4)


def _manifest(
    model_id: str, task: Any, declared: manifest_pb2.SinglePass, outputs: tuple[str, ...], gives_attention: bool
) -> manifest_pb2.Manifest:
    passes = [_graph(outputs, gives_attention=False)]
    if gives_attention:
        passes.append(_graph((*outputs, *(each.output for each in declared.attention)), gives_attention=True))
    variant = manifest_pb2.Variant(name="fp32", device=manifest_pb2.DEVICE_CPU, passes=passes)
    return manifest_pb2.Manifest(
        format_version=2,
        requires=["single_pass"],
        model_id=model_id,
        version="1",
        task=task,
        architecture="fake",
        single_pass=declared,
        variants=[variant],
    )


def segmenter_manifest(model_id: str = SEGMENTER, *, gives_attention: bool = True) -> manifest_pb2.Manifest:
    """A segmentation model of four classes."""
    picture = manifest_pb2.PictureInput(
        sizes=[manifest_pb2.PictureSize(width=w, height=h) for w, h in SIZES], fit=manifest_pb2.FIT_PAD, cell=CELL
    )
    attention = [
        manifest_pb2.PassAttention(output="unary", role=ROLES.ATTENTION_ROLE_UNARY, block="context"),
        manifest_pb2.PassAttention(output="pairwise", role=ROLES.ATTENTION_ROLE_PAIRWISE, block="context"),
    ]
    labels = [manifest_pb2.Label(name=name, colour=colour) for name, colour in COLOURS.items()]
    declared = manifest_pb2.SinglePass(picture=picture, labels=labels, attention=attention)
    return _manifest(model_id, manifest_pb2.TASK_SEGMENTATION, declared, ("classes", "confidence"), gives_attention)


def classifier_manifest(model_id: str = CLASSIFIER, *, gives_attention: bool = True) -> manifest_pb2.Manifest:
    """A classification model of ten classes and two blocks, the second of which has no channel attention."""
    picture = manifest_pb2.PictureInput(sizes=[manifest_pb2.PictureSize(width=32, height=32)], fit=manifest_pb2.FIT_STRETCH)
    attention = [
        manifest_pb2.PassAttention(output="channel_1", role=ROLES.ATTENTION_ROLE_CHANNEL, block="block 1"),
        manifest_pb2.PassAttention(output="spatial_1", role=ROLES.ATTENTION_ROLE_SPATIAL, block="block 1"),
        manifest_pb2.PassAttention(output="spatial_2", role=ROLES.ATTENTION_ROLE_SPATIAL, block="block 2"),
    ]
    labels = [manifest_pb2.Label(name=name) for name in CLASSES]
    declared = manifest_pb2.SinglePass(picture=picture, labels=labels, attention=attention)
    return _manifest(model_id, manifest_pb2.TASK_CLASSIFICATION, declared, ("probabilities",), gives_attention)


def watcher_manifest(model_id: str = WATCHER, *, gives_attention: bool = True) -> manifest_pb2.Manifest:
    """A video classification model of three classes, 8 frames of 32 x 32 pixels, and 2 x 3 x 4 cells of 3 frames from the third on."""
    times, rows, columns = CLIP_CELLS
    cells = manifest_pb2.ClipCells(times=times, rows=rows, columns=columns, first_frame=2, frames=3)
    size = manifest_pb2.PictureSize(width=CLIP_SIDE, height=CLIP_SIDE)
    clip = manifest_pb2.ClipInput(frames=CLIP_FRAMES, size=size, sampling=manifest_pb2.FRAME_SAMPLING_EVEN, cells=cells)
    attention = [manifest_pb2.PassAttention(output="pairwise", role=ROLES.ATTENTION_ROLE_PAIRWISE, block="block")]
    labels = [manifest_pb2.Label(name=name) for name in ("still", "slow", "fast")]
    declared = manifest_pb2.SinglePass(clip=clip, labels=labels, attention=attention if gives_attention else [])
    return _manifest(model_id, manifest_pb2.TASK_VIDEO_CLASSIFICATION, declared, ("probabilities",), gives_attention)


def generator_manifest(model_id: str = GENERATOR, *, gives_attention: bool = True) -> manifest_pb2.Manifest:
    """A generation model of ten classes."""
    attention = [manifest_pb2.PassAttention(output="attention", role=ROLES.ATTENTION_ROLE_PAIRWISE, block="attention")]
    declared = manifest_pb2.SinglePass(
        labels=[manifest_pb2.Label(name=name) for name in CLASSES],
        attention=attention,
        latent=manifest_pb2.LatentInput(size=LATENT),
        generated=manifest_pb2.PictureOutput(width=GENERATED[0], height=GENERATED[1], cell=GENERATED_CELL),
    )
    return _manifest(model_id, manifest_pb2.TASK_GENERATION, declared, ("pixels",), gives_attention)


def pass_model(spec: TaskSpec, manifest: manifest_pb2.Manifest) -> ServedModel:
    """A served model."""
    bundle = Bundle(Path("nowhere"), manifest, manifest.variants[0])
    model = ServedModel(bundle, SINGLE_PASS, spec.task.load(bundle), 8, 0)
    model.ready_workers.add("worker-0.0")
    return model


def segmenter(*args: Any, **rest: Any) -> ServedModel:
    return pass_model(SEGMENTATION, segmenter_manifest(*args, **rest))


def classifier(*args: Any, **rest: Any) -> ServedModel:
    return pass_model(CLASSIFICATION, classifier_manifest(*args, **rest))


def watcher(*args: Any, **rest: Any) -> ServedModel:
    return pass_model(VIDEO_CLASSIFICATION, watcher_manifest(*args, **rest))


def generator(*args: Any, **rest: Any) -> ServedModel:
    return pass_model(GENERATION, generator_manifest(*args, **rest))


def tensor(values: np.ndarray) -> PassTensor:
    return PassTensor(values.shape, values.tobytes())


def numbers(given: PassTensor) -> list[int]:
    return np.frombuffer(given.data, np.int64).tolist()


def image_of(payload: PassPayload) -> np.ndarray:
    image = payload.inputs["image"]
    return np.frombuffer(image.data, np.uint8).reshape(image.shape)


def segmented(payload: PassPayload) -> dict[str, PassTensor]:
    """Outputs of the segmentation model; the attention of the padding is 0, as the model masks it."""
    image = image_of(payload)
    outputs = {"classes": tensor(image[..., 0] // 64), "confidence": tensor(image[..., 1].copy())}
    if payload.wants_attention:
        height, width, _ = image.shape
        rows, columns = -(-height // CELL), -(-width // CELL)
        inside = [-(-side // CELL) for side in numbers(payload.inputs["size"])]
        unary = np.zeros((rows, columns), np.float32)
        unary[: inside[0], : inside[1]] = np.arange(inside[0] * inside[1], 0, -1).reshape(inside)
        unary /= unary.sum()
        pairwise = np.stack([np.where(unary > 0, np.float32(1), 0) for _ in range(NUM_QUERIES)])
        for weights, cell in zip(pairwise, numbers(payload.inputs["query"]), strict=True):
            weights.reshape(-1)[cell] += 1
            weights /= weights.sum()
        outputs |= {"unary": tensor(unary.reshape(-1)), "pairwise": tensor(pairwise.reshape(NUM_QUERIES, -1))}
    return outputs


def classified(payload: PassPayload) -> dict[str, PassTensor]:
    """Outputs of the classification model: class 3 is the most probable one, 7 and 8 are equal."""
    probabilities = np.array([0.02, 0.03, 0.01, 0.5, 0.04, 0.2, 0.05, 0.07, 0.07, 0.01], np.float32)
    outputs = {"probabilities": tensor(probabilities)}
    if payload.wants_attention:
        outputs["channel_1"] = tensor(np.linspace(0, 1, 8, dtype=np.float32))
        outputs["spatial_1"] = tensor(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4))
        outputs["spatial_2"] = tensor(np.full((2, 2), 0.5, np.float32))
    return outputs


def watched(payload: PassPayload) -> dict[str, PassTensor]:
    """Outputs of the video model: "slow" is the most probable class; a query's weight is on its own cell, and on the first one."""
    outputs = {"probabilities": tensor(np.array([0.2, 0.5, 0.3], np.float32))}
    if payload.wants_attention:
        pairwise = np.zeros((NUM_QUERIES, math.prod(CLIP_CELLS)), np.float32)
        for weights, cell in zip(pairwise, numbers(payload.inputs["query"]), strict=True):
            weights[0] += 0.25
            weights[cell] += 0.75
        outputs["pairwise"] = tensor(pairwise)
    return outputs


def generated(payload: PassPayload) -> dict[str, PassTensor]:
    """Outputs of the generation model: red is the class, green follows from the latent vector, and blue is the place."""
    width, height = GENERATED
    latent = np.frombuffer(payload.inputs["latent"].data, np.float32)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.frombuffer(payload.inputs["label"].data, np.int64)
    pixels[..., 1] = int(abs(latent.sum()) * 1000) % 256
    pixels[..., 2] = np.arange(width * height).reshape(height, width)
    outputs = {"pixels": tensor(pixels)}
    if payload.wants_attention:
        weights = np.zeros((1, width // GENERATED_CELL * height // GENERATED_CELL), np.float32)
        weights[0, numbers(payload.inputs["query"])] = 0.75
        weights[0, 0] += 0.25
        outputs["attention"] = tensor(weights)
    return outputs


ANSWERS = {
    manifest_pb2.TASK_SEGMENTATION: segmented,
    manifest_pb2.TASK_CLASSIFICATION: classified,
    manifest_pb2.TASK_VIDEO_CLASSIFICATION: watched,
    manifest_pb2.TASK_GENERATION: generated,
}


class PassTicket:
    """Answers at once."""

    def __init__(self, outputs: dict[str, PassTensor]) -> None:
        self.received_at, self.outputs, self.accept = time.monotonic(), outputs, None

    async def result(self) -> Done[PassOutcome]:
        await asyncio.sleep(0)
        now = time.monotonic()
        return Done(1, PassOutcome(self.outputs, 2), now, 0.25, now, now + 0.25, 1)

    def cancel(self, reason: str) -> None:
        pass


class PassFront:
    """Accepts everything; ``alter`` changes the outputs; ``payloads`` is what came."""

    def __init__(self, *models: ServedModel) -> None:
        self._models = models or (segmenter(), classifier(), generator())
        self.draining = Draining()
        self.payloads: list[PassPayload] = []
        self.terms: list[Terms] = []
        self.alter: Callable[[dict[str, PassTensor]], object] = lambda outputs: None

    def models(self) -> list[ServedModel]:
        return list(self._models)

    def resolve(self, model: str, version: str, task: int = 0) -> ServedModel:
        for each in self._models:
            if (each.id == model or (not model and each.manifest.task == task)) and version in ("", each.version):
                return each
        raise ModelNotFound(f"no model {model}", field="model")

    def submit(self, model: ServedModel, payload: PassPayload, terms: Terms) -> PassTicket:
        self.payloads.append(payload)
        self.terms.append(terms)
        outputs = ANSWERS[model.manifest.task](payload)
        self.alter(outputs)
        return PassTicket(outputs)
