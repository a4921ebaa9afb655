# SPDX-License-Identifier: Apache-2.0
"""A served model's description of its variant's graphs, and the model of an empty id."""

from __future__ import annotations

import pytest

from attnserve.v1 import manifest_pb2
from attnserve_server.engine.front.served_models import ModelRegistry, ServedModel
from attnserve_server.errors import ConfigError, ModelNotFound
from tests.fakes.models import make_model

TRANSLATION, CAPTION = manifest_pb2.TASK_TRANSLATION, manifest_pb2.TASK_CAPTION


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([["logits"]], True),
        ([["log_probs", "top_log_probs", "top_tokens"]], True),
        ([["top_log_probs", "top_tokens"]], False),
        ([["logits"], ["top_log_probs", "top_tokens"]], False),
    ],
)
def test_gives_scores(outputs: list[list[str]], expected: bool) -> None:
    assert make_model(outputs=outputs).gives_scores is expected


def named(name: str, version: str, task: int) -> ServedModel:
    return make_model(name, version, task=task, is_ready=False)


MODELS = [
    named("b-en-de", "9", TRANSLATION),
    named("b-en-de", "10", TRANSLATION),
    named("a-en-de", "1", TRANSLATION),
    named("z-photos", "1", CAPTION),
    named("y-photos", "1", CAPTION),
]


@pytest.mark.parametrize(
    ("defaults", "task", "expected"),
    [
        ({}, TRANSLATION, "a-en-de"),
        ({TRANSLATION: "b-en-de"}, TRANSLATION, "b-en-de"),
        ({TRANSLATION: "b-en-de"}, CAPTION, "y-photos"),
        ({CAPTION: "z-photos"}, CAPTION, "z-photos"),
        ({CAPTION: "z-photos"}, 0, "a-en-de"),
    ],
)
def test_each_task_has_its_default(defaults: dict[int, str], task: int, expected: str) -> None:
    registry = ModelRegistry(MODELS, defaults)
    assert registry.resolve("", "", task).id == expected
    assert registry.resolve("b-en-de", "", task).version == "10", "an id is an id, whatever the task"


def test_what_is_not_served() -> None:
    captions_alone = ModelRegistry(MODELS[3:], {})
    with pytest.raises(ModelNotFound, match="no model for translation is served"):
        captions_alone.resolve("", "", TRANSLATION)
    assert captions_alone.resolve("", "", 0).id == "y-photos"
    with pytest.raises(ModelNotFound, match="no version '3' of 'z-photos'; there are 1"):
        captions_alone.resolve("z-photos", "3", CAPTION)
    with pytest.raises(ConfigError, match=r"default_models\.caption: 'b-en-de' is not served; there are y-photos, z-photos"):
        ModelRegistry(MODELS, {CAPTION: "b-en-de"})
    with pytest.raises(ConfigError, match=r"default_models\.translation: 'x' is not served; there are none"):
        ModelRegistry(MODELS[3:], {TRANSLATION: "x"})


def test_version_that_is_being_loaded_takes_over_when_it_can_answer() -> None:
    old, new = named("a-en-de", "1", TRANSLATION), named("a-en-de", "2", TRANSLATION)
    registry = ModelRegistry([old], {})
    registry.add(new)
    assert registry.resolve("", "", TRANSLATION) is new, "none can answer"
    old.ready_workers.add("worker-0.0")
    assert registry.resolve("", "", TRANSLATION) is old
    new.ready_workers.add("worker-0.0")
    assert registry.resolve("a-en-de", "", TRANSLATION) is new
    assert registry.remove(new.key) is new
    assert registry.resolve("a-en-de", "", TRANSLATION) is old
    with pytest.raises(ModelNotFound, match="no version '2' of 'a-en-de' is served"):
        registry.remove(new.key)
    with pytest.raises(ConfigError, match="a-en-de, version 1, is already served"):
        registry.add(old)


def test_default_that_cannot_be_served_is_missed_and_stops_no_other() -> None:
    registry = ModelRegistry(MODELS, {TRANSLATION: "broken-en-de"}, absent={"broken-en-de"})
    with pytest.raises(ModelNotFound, match="no model 'broken-en-de'"):
        registry.resolve("", "", TRANSLATION)
    assert registry.resolve("a-en-de", "", TRANSLATION).id == "a-en-de"
