# SPDX-License-Identifier: Apache-2.0
"""The model repository of a server: which bundles are served, as models of which tasks, and which are the defaults."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from attnserve_server.bundle.loader import Bundle, default_models, find_bundles, load_bundle
from attnserve_server.bundle.single_pass import batch_warning
from attnserve_server.config import ServerConfig, repository_defaults
from attnserve_server.engine.front.served_models import ModelRegistry, ServedModel
from attnserve_server.errors import BundleError, ConfigError, StartupError
from attnserve_server.stats import Measured
from attnserve_server.tasks.registry import TaskTable

log = logging.getLogger(__name__)


class Repository:
    """The bundles of a repository, by their folders; nothing is loaded before :meth:`load`.

    Args:
        config: the whole configuration.
        tasks: the tasks that are served.

    Raises:
        ConfigError: there is no repository or no bundle in it, its ``defaults.toml`` is wrong, or ``engine.batches`` names a model
            that it does not have.
    """

    def __init__(self, config: ServerConfig, tasks: TaskTable) -> None:
        self._tasks = tasks
        self._engine = config.engine
        path = Path(config.models) if config.models else default_models()
        self._folders = find_bundles(path)
        own, shipped = config.default_models, repository_defaults(path)
        self._defaults = {spec.number: getattr(own, spec.name, "") or getattr(shipped, spec.name, "") for spec in self._tasks.all()}
        """Model id by task; the configuration overrides the repository."""
        unknown = sorted(self._engine.batches.keys() - self._ids())
        if unknown:
            raise ConfigError(f"engine.batches: {', '.join(map(repr, unknown))} not in {path}")

    async def load(self, device: str) -> ModelRegistry:
        """Loads the bundles that can be served on a device; logs the problems of the others.

        Raises:
            StartupError: none can be served; lists the problems of each.
            ConfigError: a setting does not apply to its model, or a default is not a model of its task.
        """
        models: list[ServedModel] = []
        broken: list[BundleError] = []
        for folder in self._folders:
            await asyncio.sleep(0)  # a signal may stop the start
            try:
                models.append(self._served(load_bundle(folder, device, self._engine.variant, self._tasks.problems)))
            except BundleError as error:
                log.error("bundle cannot be served: %s", error)
                broken.append(error)
        if not models:
            raise StartupError("; ".join(map(str, broken)))
        self._check_batches(models)
        return ModelRegistry(models, self._defaults, self._ids() - {model.id for model in models})

    def _ids(self) -> set[str]:
        return {folder.parent.name for folder in self._folders}

    def _served(self, bundle: Bundle) -> ServedModel:
        spec = self._tasks.of(bundle.manifest)
        max_beam_size = min(self._engine.max_beam_size, self._engine.slots)
        return ServedModel(bundle, spec.kind, spec.task.load(bundle), max_beam_size, self._engine.max_source_tokens)

    def _check_batches(self, models: Iterable[ServedModel]) -> None:
        """Checks that models with settings of batches have batches, and warns of batches that may need too much memory.

        Raises:
            ConfigError: a model answers step by step, where the settings would change nothing.
        """
        chosen = [model for model in models if model.id in self._engine.batches]
        unfit = sorted({model.id for model in chosen if model.kind.measured is Measured.STEPS})
        if unfit:
            raise ConfigError(f"engine.batches: only single-pass models have batches, not {', '.join(map(repr, unfit))}")
        for model in chosen:
            warning = batch_warning(model.bundle.variant, self._engine.batches_of(model.id).max_batch)
            if warning:
                log.warning("%s, version %s: %s", *model.key, warning)
