# SPDX-License-Identifier: Apache-2.0
"""Served models whose bundles are only a manifest: real entries of the registry, without files and workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.engine.front.served_models import ServedModel
from attnserve_server.kinds import ITERATIVE

NUM_LAYERS, NUM_HEADS = 2, 3


def make_bundle(manifest: manifest_pb2.Manifest) -> Bundle:
    """A bundle without files; its first variant is served."""
    return Bundle(Path("nowhere"), manifest, manifest.variants[0])


def make_manifest(
    model_id: str,
    version: str = "1",
    *,
    task: Any = manifest_pb2.TASK_TRANSLATION,
    outputs: Sequence[Sequence[str]] = (("log_probs",),),
    gives_attention: bool = True,
    max_source_tokens: int = 100,
    max_target_tokens: int = 64,
) -> manifest_pb2.Manifest:
    """A manifest with one variant, of a step graph for each group of ``outputs``."""
    graphs = [manifest_pb2.Graph(outputs=[manifest_pb2.Tensor(name=name) for name in names]) for names in outputs]
    steps = [manifest_pb2.StepGraph(graph=graph, gives_attention=gives_attention) for graph in graphs]
    attention = manifest_pb2.AttentionOutput(output="attention", num_layers=NUM_LAYERS, num_heads=NUM_HEADS)
    return manifest_pb2.Manifest(
        format_version=1,
        model_id=model_id,
        version=version,
        task=task,
        architecture="letters",
        limits=manifest_pb2.Limits(max_source_tokens=max_source_tokens, max_target_tokens=max_target_tokens, max_beam_size=5),
        attention=attention if gives_attention else None,
        variants=[manifest_pb2.Variant(name="fp32", device=manifest_pb2.DEVICE_CPU, steps=steps)],
    )


def make_model(
    model_id: str = "upper-en-de", version: str = "1", *, loaded: Any = None, is_ready: bool = True, **manifest: Any
) -> ServedModel:
    """A served model.

    Args:
        model_id: of the manifest, as is ``version``.
        version: a decimal number.
        loaded: the object that its task has loaded for it.
        is_ready: whether a worker is warm.
        manifest: see :func:`make_manifest`.
    """
    bundle = make_bundle(make_manifest(model_id, version, **manifest))
    model = ServedModel(bundle, ITERATIVE, loaded, bundle.manifest.limits.max_beam_size, 0)
    if is_ready:
        model.ready_workers.add("worker-0.0")
    return model
