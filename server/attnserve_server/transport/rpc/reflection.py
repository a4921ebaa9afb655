# SPDX-License-Identifier: Apache-2.0
"""Server reflection, in both versions of its protocol: ``grpc.reflection.v1`` and ``v1alpha``. Used by ``server.py`` only.

grpcio-reflection has only ``v1alpha``. The messages of ``v1`` are the same; only the name of the package differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

OLD, NEW = "grpc.reflection.v1alpha", "grpc.reflection.v1"
_SERVICE, _METHOD = "ServerReflection", "ServerReflectionInfo"


def enable_reflection(names: Iterable[str], server: grpc.aio.Server) -> None:
    """Adds both reflection services.

    Args:
        names: full names of the other services.
        server: it has not started.
    """
    _describe_new()
    own = [reflection.SERVICE_NAME, f"{NEW}.{_SERVICE}"]
    servicer = ReflectionServicer([*names, *own])
    method: Any = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(tuple(grpc.method_handlers_generic_handler(name, {_METHOD: method}) for name in own))


def _describe_new() -> None:
    """Adds the description of the new version, for clients that ask for it by name."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = file.name.replace("v1alpha", "v1"), NEW
    for field in (field for message in file.message_type for field in message.field if field.type_name):
        field.type_name = field.type_name.replace(OLD, NEW)
    for method in (method for service in file.service for method in service.method):
        method.input_type, method.output_type = method.input_type.replace(OLD, NEW), method.output_type.replace(OLD, NEW)
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
