# SPDX-License-Identifier: Apache-2.0
"""The served models: one entry per version, resolved by id and version."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, cast

from attnserve.v1 import manifest_pb2
from attnserve_server.bundle.loader import Bundle
from attnserve_server.errors import BundleError, ConfigError, ModelNotFound, ModelNotReady, SequenceTooLong
from attnserve_server.kinds import Kind, Payload
from attnserve_server.request import ModelKey

PATIENCE_S = 5.0
"""So long a model without workers (one is being restarted) still queues requests."""
_GENERATIONS = itertools.count()
_SCORES = {"logits", "log_probs"}


class ServedModel:
    """One model version on this server.

    Args:
        bundle: the checked bundle.
        kind: of its engine.
        task: object that the task loaded for it (:meth:`Task.load`).
        max_beam_size: the server's limit; the bundle's own may be lower.
        max_source_tokens: the server's limit, 0 for the bundle's own.
    """

    def __init__(self, bundle: Bundle, kind: Kind, task: Any, max_beam_size: int, max_source_tokens: int) -> None:
        limits = bundle.manifest.limits
        self.bundle, self.kind = bundle, kind
        self.key = ModelKey(*bundle.key)
        self.id, self.version = self.key
        self.max_beam_size = min(max_beam_size, limits.max_beam_size)
        self.max_source_tokens = min(max_source_tokens or limits.max_source_tokens, limits.max_source_tokens)
        self.max_target_tokens = limits.max_target_tokens
        self.task = task
        self.generation = next(_GENERATIONS)
        """Unique per object: a reloaded model with the same key may be a different one."""
        self.ready_workers: set[str] = set()
        self.lost_at = -math.inf
        """When the last worker was lost, in seconds of the monotonic clock."""
        self.was_ready = False
        """Whether a worker has ever loaded it."""
        self.num_deaths = 0
        """Number of workers that died while loading it since it was last ready."""
        self.broken: dict[str, list[str]] = {}
        """Problems reported by the workers that could not load it, by worker."""

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
        """Whether a graph of the variant computes the attention."""
        variant = self.bundle.variant
        return any(step.gives_attention for step in variant.steps) or any(each.gives_attention for each in variant.passes)

    @property
    def gives_scores(self) -> bool:
        """Whether the step graphs score all tokens, which penalties, sampling and prefixes need.

        Graphs for beams in blocks need not: no search that uses these scores runs on them.
        """
        steps = [step for step in self.bundle.variant.steps if not step.block_rows]
        return all(_SCORES & {tensor.name for tensor in step.graph.outputs} for step in steps)

    @property
    def is_ready(self) -> bool:
        """Whether at least one worker is warm."""
        return bool(self.ready_workers)

    def check(self, payload: Payload) -> None:
        """Checks the length of the source.

        Raises:
            SequenceTooLong: it is longer than the model accepts.
        """
        if payload.num_pieces > self.max_source_tokens:
            raise SequenceTooLong(
                f"the text has {payload.num_pieces} pieces; {self.id} takes {self.max_source_tokens}", field="text"
            )

    def gone(self) -> ModelNotReady:
        """Returns the error of requests for a model that is no longer served."""
        return ModelNotReady(f"{self.id} is no longer served")

    def load_error(self) -> BundleError:
        """Returns all problems that workers reported."""
        problems = list(dict.fromkeys(problem for problems in self.broken.values() for problem in problems))
        return BundleError(str(self.bundle.folder), problems or ["no worker has loaded it"])


class ModelRegistry:
    """All served models, by id and version.

    Args:
        models: the entries.
        defaults: default model id by task; without one, the first by name is the default.
        absent: ids of models in the repository that cannot be served.

    Raises:
        ConfigError: a default is neither a model of its task nor absent.
    """

    def __init__(self, models: Iterable[ServedModel], defaults: Mapping[int, str], absent: Collection[str] = ()) -> None:
        self._models: dict[tuple[str, str], ServedModel] = {}
        self._given = {task: default for task, default in defaults.items() if default}
        for model in models:
            self._models[model.key] = model
        self._index()
        for task, default in self._given.items():
            of_task = {model.id for model in self._models.values() if model.manifest.task == task}
            if default not in of_task and default not in absent:
                known = ", ".join(sorted(of_task)) or "none"
                raise ConfigError(f"default_models.{_name(task)}: {default!r} is not served; there are {known}")

    def all(self) -> list[ServedModel]:
        """Returns all entries, in the order of addition."""
        return list(self._models.values())

    def get(self, key: tuple[str, str]) -> ServedModel | None:
        """Returns the entry of a key, or None."""
        return self._models.get(key)

    def add(self, model: ServedModel) -> None:
        """Adds a model.

        Raises:
            ConfigError: a model with this key is already served.
        """
        if model.key in self._models:
            raise ConfigError(f"{model.id}, version {model.version}, is already served")
        self._models[model.key] = model
        self._index()

    def remove(self, key: ModelKey) -> ServedModel:
        """Removes and returns a model.

        Raises:
            ModelNotFound: there is no such model.
        """
        model = self._models.pop(key, None)
        if model is None:
            raise ModelNotFound(f"no version {key.version!r} of {key.id!r} is served", field="model")
        self._index()
        return model

    def discard(self, model: ServedModel) -> None:
        """Removes a model if it is served."""
        if self._models.get(model.key) is model:
            self.remove(model.key)

    def resolve(self, model: str, version: str, task: int = 0) -> ServedModel:
        """Returns the entry for an id ("": the default of the task, or of the first task) and a version.

        An empty version selects the newest that is ready, or the newest if none is.

        Raises:
            ModelNotFound: no such id, no such version of it, or no model for the task.
        """
        wanted = model or self._defaults.get(task or self._first, "")
        if not wanted:
            raise ModelNotFound(f"no model for {_name(task)} is served", field="model")
        versions = self._versions.get(wanted)
        if versions is None:
            raise ModelNotFound(f"no model {wanted!r}; there are {', '.join(sorted(self._versions))}", field="model")
        found = versions.get(version) if version else _newest(versions)
        if found is None:
            raise ModelNotFound(f"no version {version!r} of {wanted!r}; there are {', '.join(sorted(versions))}", field="version")
        return found

    def _index(self) -> None:
        """Builds the tables of :meth:`resolve`."""
        self._versions: dict[str, dict[str, ServedModel]] = {}
        of_task: dict[int, set[str]] = {}
        for model in self._models.values():
            self._versions.setdefault(model.id, {})[model.version] = model
            of_task.setdefault(model.manifest.task, set()).add(model.id)
        self._defaults = {task: min(ids) for task, ids in of_task.items()} | self._given
        self._first = min(of_task, default=0)


def _newest(versions: Mapping[str, ServedModel]) -> ServedModel:
    """Returns the newest ready version, so that a version takes over only when it is loaded; the newest if none is ready."""
    if len(versions) == 1:
        return next(iter(versions.values()))
    ready = [version for version, model in versions.items() if model.is_ready]
    return versions[max(ready or versions, key=int)]


def _name(task: int) -> str:
    return manifest_pb2.Task.Name(cast(Any, task)).removeprefix("TASK_").lower()
