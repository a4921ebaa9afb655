# SPDX-License-Identifier: Apache-2.0
"""ModelService: what the server serves. Must not import grpc."""

from __future__ import annotations

from attnserve.v1 import manifest_pb2, model_pb2
from attnserve_server.transport.interface import AnyFront, ServedModel
from attnserve_server.transport.rpc.calls import Call
from attnserve_server.transport.rpc.v1.answers import model_message


class ModelServicer:
    """Answers the RPCs of ``attnserve.v1.ModelService``.

    Args:
        front: knows the models.
    """

    def __init__(self, front: AnyFront) -> None:
        self._front = front

    async def list_models(self, request: model_pb2.ListModelsRequest, call: Call) -> model_pb2.ListModelsResponse:
        """Answers with the state of all models and versions, sorted by id, then by version."""
        del request, call
        return model_pb2.ListModelsResponse(models=[model_message(model) for model in sorted(self._front.models(), key=_order)])

    async def get_model(self, request: model_pb2.GetModelRequest, call: Call) -> model_pb2.GetModelResponse:
        """Answers with one model and the manifest of its bundle."""
        model: ServedModel = self._front.resolve(request.model, request.version, manifest_pb2.TASK_UNSPECIFIED)
        call.model = model
        return model_pb2.GetModelResponse(model=model_message(model), manifest=model.manifest)


def _order(model: ServedModel) -> tuple[str, int, str]:
    """Versions are decimal numbers: 10 comes after 9."""
    return model.id, int(model.version) if model.version.isdecimal() else 0, model.version
