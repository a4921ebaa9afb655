# SPDX-License-Identifier: Apache-2.0
"""ModelService: lists the served models. Must not import grpc."""

from __future__ import annotations

from attnserve.v1 import manifest_pb2, model_pb2
from attnserve_server.dataplane.call import Call
from attnserve_server.dataplane.plane import DataPlane
from attnserve_server.tasks.interface import Model


class ModelServicer:
    """Answers the RPCs of ``attnserve.v1.ModelService``.

    Args:
        plane: resolves the models.
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def list_models(self, request: model_pb2.ListModelsRequest, call: Call) -> model_pb2.ListModelsResponse:
        """Answers with all models and versions, sorted by id, then by version."""
        del request, call
        return model_pb2.ListModelsResponse(models=[model_message(model) for model in sorted(self._plane.models(), key=_order)])

    async def get_model(self, request: model_pb2.GetModelRequest, call: Call) -> model_pb2.GetModelResponse:
        """Answers with one model and the manifest of its bundle."""
        model = call.model = self._plane.resolve(request.model, request.version, manifest_pb2.TASK_UNSPECIFIED)
        return model_pb2.GetModelResponse(model=model_message(model), manifest=model.manifest)


def model_message(model: Model) -> model_pb2.Model:
    """Returns the message of a model."""
    return model_pb2.Model(
        id=model.id,
        version=model.version,
        task=model.manifest.task,
        architecture=model.manifest.architecture,
        variant=model.variant,
        state=model_pb2.MODEL_STATE_READY if model.is_ready else model_pb2.MODEL_STATE_LOADING,
        max_source_tokens=model.max_source_tokens,
        max_target_tokens=model.max_target_tokens,
        max_beam_size=model.max_beam_size,
    )


def _order(model: Model) -> tuple[str, int, str]:
    """Sort key: versions are decimal numbers, 10 comes after 9."""
    return model.id, int(model.version) if model.version.isdecimal() else 0, model.version
