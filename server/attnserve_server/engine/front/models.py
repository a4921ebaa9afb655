# SPDX-License-Identifier: Apache-2.0
"""The models of a server: one entry a version; resolved by id and version."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.errors import ConfigError, ModelNotFound
from attnserve_server.tasks.caption import CaptionTask
from attnserve_server.tasks.translation import TranslationTask

TRANSLATION, CAPTION = manifest_pb2.TASK_TRANSLATION, manifest_pb2.TASK_CAPTION
_TASKS: Mapping[int, type[TranslationTask] | type[CaptionTask]] = {TRANSLATION: TranslationTask, CAPTION: CaptionTask}
_SCORES = {"logits", "log_probs"}


class ServedModel:
    """One model version on this server.

    Args:
        bundle: what is served.
        index: its place in the list that workers know it by.
        max_beam_size: the server's limit; the bundle's own may be lower.
        max_source_tokens: the server's limit, 0 for the bundle's own.
    """

    def __init__(self, bundle: Bundle, index: int, max_beam_size: int, max_source_tokens: int) -> None:
        limits = bundle.manifest.limits
        self.bundle, self.index = bundle, index
        self.id, self.version = bundle.key
        self.max_beam_size = min(max_beam_size, limits.max_beam_size)
        self.max_source_tokens = min(max_source_tokens or limits.max_source_tokens, limits.max_source_tokens)
        self.max_target_tokens = limits.max_target_tokens
        self.task: TranslationTask | CaptionTask = _TASKS[bundle.manifest.task](bundle)
        self.ready_workers: set[str] = set()
        self.lost_at = -math.inf
        """When the last worker was lost, in seconds of the monotonic clock."""

    @property
    def manifest(self) -> manifest_pb2.Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @property
    def variant(self) -> str:
        """Name of the variant that is served."""
        return self.bundle.variant.name

    @property
    def gives_attention(self) -> bool:
        """Whether a step graph of the variant computes the attention."""
        return any(step.gives_attention for step in self.bundle.variant.steps)

    @property
    def gives_scores(self) -> bool:
        """Every step graph of the variant scores all tokens; what changes scores, draws or forces tokens needs that."""
        return all(_SCORES & {tensor.name for tensor in step.graph.outputs} for step in self.bundle.variant.steps)

    @property
    def is_ready(self) -> bool:
        """At least one worker is warm."""
        return bool(self.ready_workers)


class ModelRegistry:
    """All served models.

    Args:
        models: the entries.
        defaults: of a task: id of the model that an empty id means; the only one, or the first by name, where there is none.

    Raises:
        ConfigError: a default is not among the models of its task.
    """

    def __init__(self, models: list[ServedModel], defaults: Mapping[int, str]) -> None:
        self._models = models
        self._versions: dict[str, dict[str, ServedModel]] = {}
        of_task: dict[int, set[str]] = {}
        for model in models:
            self._versions.setdefault(model.id, {})[model.version] = model
            of_task.setdefault(model.manifest.task, set()).add(model.id)
        self._defaults = {task: min(ids) for task, ids in of_task.items()}
        self._first = min(of_task, default=TRANSLATION)
        for task, default in defaults.items():
            if default and default not in of_task.get(task, ()):
                known = ", ".join(sorted(of_task.get(task, ()))) or "none"
                raise ConfigError(f"default_models.{_name(task)}: {default!r} is not served; there are {known}")
            if default:
                self._defaults[task] = default

    def all(self) -> list[ServedModel]:
        """Every entry, in the workers' order."""
        return list(self._models)

    def resolve(self, model: str, version: str, task: int = TRANSLATION) -> ServedModel:
        """The entry for an id ("" for the default of a task, or of the first of all tasks) and a version ("" for the newest).

        Raises:
            ModelNotFound: no such id, no such version of it, or no model at all for the task.
        """
        wanted = model or self._defaults.get(task or self._first, "")
        if not wanted:
            raise ModelNotFound(f"no model for {_name(task)} is served", field="model")
        versions = self._versions.get(wanted)
        if versions is None:
            raise ModelNotFound(f"no model {wanted!r}; there are {', '.join(sorted(self._versions))}", field="model")
        found = versions.get(version) if version else versions[max(versions, key=int)]
        if found is None:
            raise ModelNotFound(f"no version {version!r} of {wanted!r}; there are {', '.join(sorted(versions))}", field="version")
        return found


def _name(task: int) -> str:
    return manifest_pb2.Task.Name(cast(Any, task)).removeprefix("TASK_").lower()
