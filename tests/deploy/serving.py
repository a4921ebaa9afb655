# SPDX-License-Identifier: Apache-2.0
"""Asks a server in a container for one answer of every task that it has a model for."""

from __future__ import annotations

import json
import sys
from http import HTTPStatus
from typing import Any

from tests.deploy.containers import ROOT, Engine, eventually

PHOTO = ROOT / "clients/python/attnserve_client/demo/dog.jpg"
READY_S = 90.0
QUESTIONS = {
    "translation": ["translate", "A dog runs through the snow."],
    "caption": ["caption", str(PHOTO)],
    "segmentation": ["segment", str(PHOTO)],
    "classification": ["classify", str(PHOTO)],
    "video_classification": ["classify-video", str(ROOT / "tests/golden/photos")],
    "generation": ["generate", "--class", "ship", "--json"],
}
"""By task: the command that asks; a task without one fails the test. The clip is sent as frames: the images have no decoder of files."""


def command(engine: Engine, address: str, *arguments: str) -> str:
    """Runs a command of the client beside the server, and returns its output."""
    done = engine.ask(sys.executable, "-m", "attnserve_client.cli", *arguments, environment={"ATTNSERVE_ADDRESS": address})
    assert done.returncode == 0, f"attnserve {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


def await_ready(engine: Engine, address: str, container: str, page: str = "") -> None:
    """Waits until the server in a container says that it serves, by its health service, or by a page where one is given.

    A container that has ended fails the test with its log.
    """

    def is_ready() -> bool:
        is_running = engine.inspect(container, ".State.Running") == "true"
        assert is_running, engine.podman("logs", container, is_checked=False)[-3000:]
        if page:
            return engine.get(page)[0] == HTTPStatus.OK
        asked = engine.ask(sys.executable, "-m", "attnserve_client.cli", "health", "--address", address)
        assert asked.returncode in (0, 1), asked.stderr
        return asked.returncode == 0

    try:
        eventually(is_ready, f"{address} serves", READY_S)
    except AssertionError as error:
        raise AssertionError(f"{error}; its log: {engine.podman('logs', container, is_checked=False)[-3000:]}") from None


def tasks_answered(engine: Engine, address: str) -> set[str]:
    """Asks the default model of every task, checks the answers, and returns the tasks."""
    models: list[dict[str, Any]] = json.loads(command(engine, address, "models", "--json"))
    tasks = {model["task"] for model in models}
    unknown = tasks - QUESTIONS.keys()
    assert not unknown, f"no question for the tasks {unknown}"
    for task in sorted(tasks):
        answer = command(engine, address, *QUESTIONS[task])
        assert answer.strip(), task
        if task == "translation":
            assert answer.strip() == "Ein Hund rennt durch den Schnee."
        if task == "caption":
            assert len(answer.split()) >= 4, answer
    return tasks
