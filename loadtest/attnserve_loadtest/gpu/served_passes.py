# SPDX-License-Identifier: Apache-2.0
"""Single-pass models on the device behind gRPC: their answers against those of a server on the CPU, and the time of a start.

Each model has a server of its own on the device, so that the figures of one do not depend on whether another starts in time.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from attnserve.v1 import manifest_pb2
from attnserve_loadtest.gpu.context import Context
from attnserve_loadtest.gpu.pass_inputs import sizes_of
from attnserve_loadtest.gpu.passes import agreement_of, tolerances_of
from attnserve_loadtest.gpu.results import Skip, note
from attnserve_loadtest.gpu.served import only
from attnserve_loadtest.gpu.stepping import median_s
from attnserve_server.bundle.loader import Bundle, load_bundle

if TYPE_CHECKING:
    from attnserve_client.client import Client
    from attnserve_client.demo.server import DemoServer

PHOTOS = Path(__file__).resolve().parents[3] / "tests" / "golden" / "photos"
IMAGES_A_CLASS = 4
REPETITIONS = 10
MOST_COLUMNS = 100
"""Of an error in the message of a failed check; the figures have the whole error."""
_LOADED = re.compile(r"^attnserve_model_load_duration_seconds_sum\{.*\} (\S+)$", re.MULTILINE)

Output = npt.NDArray[Any]
Question = Callable[[], tuple[str, Output]]
"""Asks a server; returns the name of the graph's output that the answer is made of, and the answer's elements."""


def served_passes(context: Context, figures: dict[str, Any]) -> None:
    """Answers of each single-pass model on the device and on the CPU, seconds until it is loaded and warm, and latency.

    Raises:
        AssertionError: the answers of a model are not those of the CPU, or its server does not start.
        Skip: the client's packages are missing, or no bundle has a CUDA variant.
    """
    try:
        from attnserve_client.client import Client
        from attnserve_client.errors import AttnserveError, ToolError
    except ImportError as error:
        raise Skip(f"the client is not installed: no {error.name}") from error
    paths = list(dict.fromkeys(path for path, _ in context.pass_variants()))
    paths.sort(key=lambda path: len(sizes_of(load_bundle(path))))  # a start warms up each size: the shortest first
    problems = list[str]()
    with _server(paths, "cpu") as on_cpu:
        for path in context.in_time(paths, figures, lambda each: each.parent.name):
            name = path.parent.name
            try:
                figures[name] = found = _compared(path, on_cpu, Client)
            except (ToolError, AttnserveError) as error:
                figures[name] = {"error": str(error)}
                problems.append(f"{name} ({str(error).splitlines()[-1][:MOST_COLUMNS]})")
                continue
            shown = f"start {found['start_s']} s, of it load and warm-up {found['load_s']}, {found['ms']} ms"
            note(figures, name, f"{shown}, apart {found['share_apart']:.4f}, most {found['most_apart']:.2g}")
            if not found["is_within"]:
                problems.append(name)
    assert not context.looks_at_values or not problems, f"not as a server on the CPU: {', '.join(problems)}"


def _compared(path: Path, on_cpu: DemoServer, kind: type[Client]) -> dict[str, Any]:
    """Starts a server of one model on the device, and compares its answers with those of a server on the CPU."""
    bundle, began = load_bundle(path, "cuda"), time.perf_counter()
    with _server([path], "cuda") as server, _client(server, kind) as client:
        took, questions = time.perf_counter() - began, questions_of(client, bundle)
        found = [ask() for ask in questions]
        seconds = median_s(questions[0], REPETITIONS)
        loaded = sum(float(each) for each in _LOADED.findall(server.metrics()))
    with _client(on_cpu, kind) as client:
        expected = [ask() for ask in questions_of(client, bundle)]
    times = {"start_s": round(took, 2), "load_s": round(loaded, 2), "ms": round(1e3 * seconds, 3)}
    return {"answers": len(found), **times, **agreement_of_answers(found, expected, bundle)}


def questions_of(client: Client, bundle: Bundle) -> list[Question]:
    """Questions about photos, a clip of photos, or classes, as the model's task wants them; the second half asks for attention."""
    name, labels = bundle.manifest.model_id, bundle.manifest.single_pass.labels
    photos = sorted(PHOTOS.glob("*.jpg"))
    most: dict[str, Any] = {"model": name, "top_k": len(labels)}

    def segment(photo: Path, **wish: Any) -> tuple[str, Output]:
        return "classes", client.segment(photo, model=name, **wish).class_map

    def classify(photo: Path, **wish: Any) -> tuple[str, Output]:
        return "probabilities", _by_index(client.classify_image(photo, **most, **wish).classes)

    def classify_video(frames: Sequence[Path], **wish: Any) -> tuple[str, Output]:
        return "probabilities", _by_index(client.classify_video(frames, **most, **wish).classes)

    def generate(label: manifest_pb2.Label, **wish: Any) -> tuple[str, Output]:
        answer = client.generate_image(label.name, model=name, count=IMAGES_A_CLASS, seed=len(label.name), **wish)
        return "pixels", answer.pixels()

    asked: dict[int, tuple[Any, Sequence[Any], dict[str, Any]]] = {
        manifest_pb2.TASK_SEGMENTATION: (segment, photos, {"return_unary": True, "queries": [(0, 0)]}),
        manifest_pb2.TASK_CLASSIFICATION: (classify, photos, {"return_attention": True}),
        manifest_pb2.TASK_VIDEO_CLASSIFICATION: (classify_video, [photos, photos[::-1]], {"queries": [(0, 0.5, 0.5)]}),
        manifest_pb2.TASK_GENERATION: (generate, labels, {"attention_at": (0, 0)}),
    }
    ask, inputs, attention = asked[bundle.manifest.task]
    return [functools.partial(ask, each, **wish) for wish in ({}, attention) for each in inputs]


def agreement_of_answers(
    found: Sequence[tuple[str, Output]], expected: Sequence[tuple[str, Output]], bundle: Bundle
) -> Mapping[str, Any]:
    """Compares all answers of a model, see :func:`~attnserve_loadtest.gpu.passes.agreement_of`."""
    mine, right = (np.concatenate([output.ravel() for _, output in answers]) for answers in (found, expected))
    return agreement_of(mine, right, tolerances_of(bundle)[found[0][0]])


@contextlib.contextmanager
def _server(paths: Sequence[Path], device: str) -> Iterator[DemoServer]:
    """A server of these models with one worker; it may still be starting."""
    from attnserve_loadtest.bench.servers import server_process

    with only(paths) as models, server_process(models, "auto", "--workers", "1", "--device", device) as server:
        yield server


@contextlib.contextmanager
def _client(server: DemoServer, kind: type[Client]) -> Iterator[Client]:
    """A client of a server, which it waits for."""
    from attnserve_loadtest.bench.servers import address_of

    with kind(address_of(server)) as client:
        yield client


def _by_index(classes: Sequence[Any]) -> Output:
    """The probabilities of all classes, by their index."""
    return np.array([each.probability for each in sorted(classes, key=lambda each: each.index)])
