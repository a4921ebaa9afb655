# SPDX-License-Identifier: Apache-2.0
"""ModelService: what the server serves. Called through ``rpc.py``; must not import grpc."""

from __future__ import annotations

from attnserve.v1 import model_pb2
from attnserve_server.transport import answers
from attnserve_server.transport.interface import Front, ServedModel
from attnserve_server.transport.rpc import Call


class ModelServicer:
    """The methods of ModelService."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def list_models(self, request: model_pb2.ListModelsRequest, call: Call) -> model_pb2.ListModelsResponse:
        """Lists all models, sorted by id and version."""
        models = sorted(self._front.models(), key=_order)
        return model_pb2.ListModelsResponse(models=[answers.model_entry(model) for model in models])

    async def get_model(self, request: model_pb2.GetModelRequest, call: Call) -> model_pb2.GetModelResponse:
        """Describes one model."""
        model = self._front.resolve(request.model, request.version)
        call.model = model
        return model_pb2.GetModelResponse(model=answers.model_entry(model), manifest=model.manifest)


def _order(model: ServedModel) -> tuple[str, int, str]:
    return model.id, int(model.version) if model.version.isdecimal() else -1, model.version
