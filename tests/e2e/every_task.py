# SPDX-License-Identifier: Apache-2.0
"""A server with one model of each task in the server's registry: a shipped one, or a made-up one of a single-pass task.

The answers of shipped single-pass models depend on their batch mates in the last bits of a float; those of the made-up ones do not, so
that an answer of another request is seen by its bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from attnserve_server.tasks.registry import TASKS
from tests.e2e.captioning import MODEL, repository
from tests.e2e.serving import Server, serve
from tests.fakes import passes, small_classifier, small_generator

SHIPPED: Mapping[str, str] = {"translation": "transformer-en-de", "caption": MODEL, "video_classification": "nonlocal-fight"}
"""Id of a shipped model of a task."""
MADE_UP: Mapping[str, Callable[[Path], Path]] = {
    "segmentation": passes.write_bundle,
    "classification": small_classifier.write_bundle,
    "generation": small_generator.write_bundle,
}
"""Writer of a made-up model of a task."""
IDS = (*SHIPPED.values(), passes.MODEL_ID, small_classifier.MODEL_ID, small_generator.MODEL_ID)


def every_task(folder: Path) -> Path:
    """Makes the model repository.

    Raises:
        KeyError: a task of the registry has neither a shipped model nor a made-up one.
    """
    found = repository(folder, *SHIPPED.values())
    for spec in TASKS:
        if spec.name not in SHIPPED:
            MADE_UP[spec.name](found)
    return found


@contextlib.contextmanager
def serve_every_task(folder: Path, *flags: str) -> Iterator[Server]:
    """A server of these models."""
    with serve(folder, "--models", str(every_task(folder)), *flags) as server:
        yield server
