# SPDX-License-Identifier: Apache-2.0
"""A task over the server's own single-pass engine that the server's code does not contain: the classes of an image's pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attnserve_server.bundle.loader import Bundle
from attnserve_server.errors import InvalidRequest
from attnserve_server.kinds import SINGLE_PASS
from attnserve_server.passes import PassOutcome, PassPayload
from attnserve_server.request import Done
from attnserve_server.tasks.interface import Limits, Model
from attnserve_server.tasks.registry import Preparation, TaskSpec

TASK = 78


@dataclass(frozen=True)
class Prepared:
    payloads: Sequence[PassPayload]


class Pixels:
    """The task: a request is a payload, an answer the outcome."""

    def load(self, bundle: Bundle) -> None:
        return None

    def check(self, asked: PassPayload, model: Model, limits: Limits) -> PassPayload:
        if asked.wants_attention and not model.gives_attention:
            raise InvalidRequest(f"{model.id} gives no attention", field="attention")
        return asked

    def effort(self, asked: PassPayload) -> int:
        return 0

    def prepare(self, asked: PassPayload, checked: PassPayload, model: Model, limits: Limits) -> Prepared:
        return Prepared([checked])

    def render(self, prepared: Prepared, answers: Sequence[Done[PassOutcome]]) -> PassOutcome:
        return answers[0].outcome

    def stream(self, prepared: Prepared) -> Any:
        raise InvalidRequest("images are not streamed")


SPEC = TaskSpec(
    number=TASK,
    name="pixels",
    does="tell pixels apart",
    service="made.up.v1.PixelService",
    kind=SINGLE_PASS,
    task=Pixels(),
    needs=("single_pass.labels",),
    preparation=Preparation("reader", "images"),
)
