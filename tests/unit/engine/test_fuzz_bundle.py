# SPDX-License-Identifier: Apache-2.0
"""Mutated manifests, golden answers and ONNX files: the bundle is loaded or refused with ``BundleError``; nothing else is raised."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from attnserve_server.bundle.graphs import external_files
from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.config import EngineConfig
from attnserve_server.engine.front.served_models import ModelRegistry, ServedModel
from attnserve_server.engine.worker import golden
from attnserve_server.engine.worker.engine import Engine
from attnserve_server.engine.worker.iterative.factory import make_engine
from attnserve_server.errors import BundleError
from attnserve_server.kinds import ITERATIVE
from attnserve_server.tasks.registry import TaskTable
from attnserve_server.tasks.translation import TranslationTask
from attnserve_server.transport.rpc.v1.model import model_message
from tests.driving import STEP_BUNDLES
from tests.fakes.bundles import FILES, sound_bundle
from tests.foreign.common import sentencepiece_model
from tests.fuzzing import ENOUGH, campaign, corpus, json_mutated, mutated, scales

MANIFESTS, GOLDEN = corpus("manifest"), corpus("golden")
SOUND = ("caption.json", "sound.json")
MOST_S = 20.0
"""Time after which one example is taken for a hang: thousands of times what the slowest takes."""


def load(folder: Path, manifest: bytes) -> None:
    (folder / "manifest.json").write_bytes(manifest)
    began, problems = time.monotonic(), ["none"]
    try:
        bundle = load_bundle(folder, check=TaskTable().problems)
    except BundleError as error:
        problems = error.problems
    else:
        assert bundle.key == ("a-model", "2")
        assert {bundle.read(file.name) for file in bundle.manifest.files} == set(FILES.values())
        assert bundle.max_encoded in (0, 1)
    assert problems
    assert all(isinstance(problem, str) and problem for problem in problems)
    assert time.monotonic() - began < MOST_S


@pytest.mark.parametrize("name", MANIFESTS)
def test_kept_manifest_is_loaded_or_refused(tmp_path: Path, name: str) -> None:
    folder = sound_bundle(tmp_path)
    load(folder, MANIFESTS[name])
    if name not in SOUND:
        with pytest.raises(BundleError):
            load_bundle(folder, check=TaskTable().problems)


@scales
@pytest.mark.timeout(600)
def test_mutated_manifest_is_loaded_or_refused(tmp_path: Path, scale: float) -> None:
    folder = sound_bundle(tmp_path)
    sound = [MANIFESTS[name] for name in SOUND]
    campaign(
        json_mutated(sound) | json_mutated(sound, 1) | mutated(list(MANIFESTS.values())), lambda data: load(folder, data), 6, scale
    )


def serve(folder: Path, manifest: bytes) -> bool:
    """What the front does with a bundle before a worker loads it; whether the bundle is served."""
    (folder / "manifest.json").write_bytes(manifest)
    table = TaskTable()
    try:
        bundle = load_bundle(folder, check=table.problems)
        spec = table.of(bundle.manifest)
        model = ServedModel(bundle, spec.kind, spec.task.load(bundle), 8, 0)
    except BundleError:
        return False
    ModelRegistry([model], {}, set()).resolve(model.id, "")
    assert model_message(model).id == "a-model"
    assert model.max_beam_size in range(1, 9)
    assert isinstance(model.gives_attention and model.gives_scores, bool)
    text = model.task.render([4, 5, bundle.manifest.vocabulary.end_id])[0]
    assert isinstance(text, str)
    if isinstance(model.task, TranslationTask):
        assert model.task.encode("A dog. It runs!").tokens
        assert model.task.split("A dog. It runs!")
    return True


@scales
@pytest.mark.timeout(600)
def test_mutated_manifest_with_a_real_tokenizer_is_served_or_refused(tmp_path: Path, scale: float) -> None:
    folder = sound_bundle(tmp_path)
    tokenizer = sentencepiece_model()
    (folder / "pieces.model").write_bytes(tokenizer)
    listed = hashlib.sha256(FILES["pieces.model"]).hexdigest().encode(), hashlib.sha256(tokenizer).hexdigest().encode()
    sound, served = [MANIFESTS[name].replace(*listed) for name in SOUND], [0, 0]
    assert all(serve(folder, data) for data in sound)

    def check(data: bytes) -> None:
        served[serve(folder, data)] += 1

    campaign(json_mutated(sound, 1) | json_mutated(sound, 1) | json_mutated(sound, 3), check, 4, scale)
    assert sum(served) < ENOUGH or min(served) > 0.02 * sum(served), served


class Started:
    """An engine that is started once for all examples."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def starting(self) -> Iterator[None]:
        return iter(())

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)


@pytest.fixture(scope="module")
def started() -> tuple[Bundle, Started]:
    bundle = load_bundle(STEP_BUNDLES["rnnsearch-en-de"])
    engine = make_engine(bundle, EngineConfig())
    for _ in engine.starting():
        pass
    return bundle, Started(engine)


def compare(bundle: Bundle, engine: Started, folder: Path, content: bytes) -> list[str]:
    """Asks the engine these golden answers; returns the problems."""
    (folder / bundle.manifest.golden_file).write_bytes(content)
    began, problems = time.monotonic(), list[str]()
    try:
        for _ in golden.starting(engine, ITERATIVE, dataclasses.replace(bundle, folder=folder), EngineConfig()):  # type: ignore[arg-type]
            assert time.monotonic() - began < MOST_S
    except BundleError as error:
        problems = error.problems
    assert not engine.has_work  # type: ignore[attr-defined]
    return problems


@pytest.mark.parametrize("name", GOLDEN)
def test_kept_golden_answers_are_compared_or_refused(tmp_path: Path, started: tuple[Bundle, Started], name: str) -> None:
    assert bool(compare(*started, tmp_path, GOLDEN[name])) == (name != "text.json")


@scales
@pytest.mark.timeout(600)
def test_mutated_golden_answers_are_compared_or_refused(tmp_path: Path, started: tuple[Bundle, Started], scale: float) -> None:
    strategy = json_mutated([GOLDEN["text.json"]], 2) | mutated(list(GOLDEN.values()), 2)
    campaign(strategy, lambda data: compare(*started, tmp_path, data), 6, scale)
    assert compare(*started, tmp_path, GOLDEN["text.json"]) == [], "the engine answers otherwise after the campaign"


@scales
@pytest.mark.timeout(600)
def test_mutated_graph_names_its_files_or_none(scale: float) -> None:
    graphs = [(path / "encode.onnx").read_bytes()[-1500:] for path in STEP_BUNDLES.values()]
    whole = (STEP_BUNDLES["rnnsearch-en-de"] / "encode.onnx").read_bytes()
    assert external_files(whole) == {"weights.bin"}
    campaign(mutated([*graphs, whole]), lambda data: external_files(data), 2, scale)
