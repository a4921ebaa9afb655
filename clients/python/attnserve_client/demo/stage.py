# SPDX-License-Identifier: Apache-2.0
"""What a step of the demo is, and what it gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from attnserve_client.client import Client
from attnserve_client.types import ModelDetails, Task


@dataclass(frozen=True, slots=True)
class Stage:
    """The context of a step: the client, a task's models, the console, and the folder for files."""

    client: Client
    models: Sequence[ModelDetails]
    """The task's default model first."""
    console: Console
    results: Path

    @property
    def model(self) -> ModelDetails:
        """The default model."""
        return self.models[0]

    @property
    def model_id(self) -> str:
        """The model's id."""
        return self.model.model.id


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a task: run by its default model, or once for all of its models if it compares them."""

    task: Task
    title: str
    run: Callable[[Stage], None]
    compares: bool = False


def has_attention(details: ModelDetails) -> bool:
    """Whether the served variant can return attention."""
    served = [variant for variant in details.manifest.variants if variant.name == details.model.variant]
    in_steps = any(step.gives_attention for variant in served for step in variant.steps)
    return in_steps or any(each.gives_attention for variant in served for each in variant.passes)


def file_of(stage: Stage, name: str) -> Path:
    """Returns the path of a file for a step to write; its folder exists."""
    stage.results.mkdir(parents=True, exist_ok=True)
    return stage.results / name
