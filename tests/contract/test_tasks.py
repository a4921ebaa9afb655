# SPDX-License-Identifier: Apache-2.0
"""Everything that names tasks agrees with the server's table of tasks (``tasks/registry.py``)."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2  # noqa: F401 - registers its descriptors

from attnserve.v1 import manifest_pb2
from attnserve_client import AsyncClient, Client, methods
from attnserve_client import Task as ClientTask
from attnserve_client.cli.app import build_app
from attnserve_server.config import DefaultModelsConfig
from attnserve_server.kinds import ITERATIVE, imported
from attnserve_server.tasks.registry import TASKS, TaskSpec, TaskTable
from attnserve_server.transport.rpc.server import SERVICERS
from tests.foreign.letters import SPEC as LETTERS

RAY = Path(__file__).resolve().parents[2] / "deploy" / "ray"
PASSED_ON_BY_RAY = set(re.findall(r"^    (\w+) = (?:unary|stream)\(", (RAY / "replica.py").read_text(encoding="utf-8"), re.M))
ADDED_TO_RAY = set(re.findall(r"_pb2_grpc\.add_(\w+)Servicer_to_server", (RAY / "config.yaml").read_text(encoding="utf-8")))
CALLED = {method.path for method in vars(methods).values() if isinstance(method, methods.Method)}
COMMANDS = {command.name for command in build_app().registered_commands}


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def faults_of(spec: TaskSpec) -> list[str]:
    """Places that lack a task, or a part of it."""
    faults = []
    if spec.number not in manifest_pb2.Task.values():
        faults.append(f"manifest.proto has no task {spec.number}")
    if spec.name not in {field.name for field in msgspec.structs.fields(DefaultModelsConfig)}:
        faults.append(f"default_models has no {spec.name}")
    if not any(member.name.lower() == spec.name for member in ClientTask):
        faults.append(f"the client's Task has no {spec.name}")
    if spec.name not in COMMANDS and spec.does.replace(" ", "-") not in COMMANDS:
        faults.append(f"no command is called {spec.name} or {spec.does}")
    try:
        service = descriptor_pool.Default().FindServiceByName(spec.service)
    except KeyError:
        return [*faults, f"there is no service {spec.service}"]
    servicers = [servicer for descriptor, servicer in SERVICERS if descriptor.full_name == spec.service]
    if len(servicers) != 1:
        faults.append(f"the server registers {spec.service} {len(servicers)} times")
    if service.name not in ADDED_TO_RAY:
        faults.append(f"deploy/ray/config.yaml has no {service.name}")
    faults += [f"deploy/ray/replica.py has no {each.name}" for each in service.methods if each.name not in PASSED_ON_BY_RAY]
    for method in service.methods:
        name = snake_case(method.name)
        faults += [f"{servicer} has no {name}" for servicer in servicers if not hasattr(servicer, name)]
        if f"/{spec.service}/{method.name}" not in CALLED:
            faults.append(f"the client's table has no {method.name}")
        faults += [f"{client.__name__} has no {name}" for client in (Client, AsyncClient) if not hasattr(client, name)]
    return faults


@pytest.mark.parametrize("spec", TASKS, ids=lambda spec: spec.name)
def test_everything_knows_every_task(spec: TaskSpec) -> None:
    assert faults_of(spec) == []


def test_task_that_nothing_else_knows_is_seen() -> None:
    assert len(faults_of(LETTERS)) == 5
    unregistered = dataclasses.replace(TASKS[0], service="grpc.health.v1.Health")
    assert "the server registers grpc.health.v1.Health 0 times" in faults_of(unregistered)
    assert "the client's table has no Watch" in faults_of(unregistered)
    assert {"deploy/ray/config.yaml has no Health", "deploy/ray/replica.py has no Watch"} < set(faults_of(unregistered))


def names_beyond(specs: Sequence[TaskSpec]) -> list[str]:
    """Tasks that other places name and the table lacks."""
    names = {spec.name for spec in specs}
    services = {spec.service for spec in specs} | {"attnserve.v1.ModelService"}
    beyond = [field.name for field in msgspec.structs.fields(DefaultModelsConfig) if field.name not in names]
    beyond += [descriptor.full_name for descriptor, _ in SERVICERS if descriptor.full_name not in services]
    return beyond + [member.name for member in ClientTask if member.name != "UNSPECIFIED" and member.name.lower() not in names]


def test_nothing_knows_other_tasks() -> None:
    assert names_beyond(TASKS) == []


def test_task_that_the_table_lacks_is_seen() -> None:
    for spec in TASKS:
        others = [each for each in TASKS if each is not spec]
        services = [] if spec.service in {each.service for each in others} else [spec.service]
        assert names_beyond(others) == [spec.name, *services, spec.name.upper()]


def test_numbers_and_names_are_unique() -> None:
    for values in zip(*((spec.number, spec.name) for spec in TASKS), strict=True):  # tasks may share a service
        assert len(set(values)) == len(TASKS)


@pytest.mark.parametrize("kind", [ITERATIVE, LETTERS.kind], ids=lambda kind: kind.name)
def test_kind_is_found_at_its_path(kind: object) -> None:
    assert imported(kind.path) is kind  # type: ignore[attr-defined]
    assert callable(imported(kind.engine))  # type: ignore[attr-defined]


def test_path_to_nothing_is_refused() -> None:
    with pytest.raises(ImportError, match=r"attnserve_server\.kinds:NOTHING"):
        imported("attnserve_server.kinds:NOTHING")
    with pytest.raises(ImportError):
        imported("attnserve_server.nowhere:KIND")


def test_manifest_of_an_unknown_task() -> None:
    assert TaskTable().problems(manifest_pb2.Manifest(task=manifest_pb2.TASK_UNSPECIFIED)) == ["task 0 is not served"]


def loaded_by(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    program = f"{statement}; import sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())


def test_front_process_does_not_load_onnx_runtime() -> None:
    loaded = loaded_by("import attnserve_server.app, attnserve_server.cli")
    assert "grpc" in loaded
    assert not any(name.partition(".")[0] == "onnxruntime" for name in loaded)
    assert "onnxruntime" in loaded_by("import attnserve_server.engine.worker.worker"), "what would be seen"


def test_worker_process_loads_neither_grpc_nor_prometheus() -> None:
    loaded = loaded_by("import attnserve_server.engine.worker.worker, attnserve_server.engine.worker.iterative.factory")
    assert not loaded & {"grpc", "prometheus_client", "sentencepiece", "PIL"}
