# SPDX-License-Identifier: Apache-2.0
"""The package as a whole: its imports, and whether its methods agree with the protos."""

from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2

from attnserve.v1 import decoding_pb2, translation_pb2
from attnserve_client import AttnserveError, methods
from attnserve_client.convert import attention_array, translation_from_proto

FORBIDDEN = ["torch", "onnxruntime", "onnx", "attnserve_server", "attnserve_export"]
OPTIONAL = ["typer", "rich", "matplotlib", "PIL", "sacrebleu", "grpc_health", "sentencepiece"]


def imports_without(blocked: list[str], statement: str) -> subprocess.CompletedProcess[str]:
    block = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))"
    return subprocess.run([sys.executable, "-c", f"{block}; {statement}"], capture_output=True, text=True, check=False)


def test_the_library_needs_base_dependencies_only() -> None:
    done = imports_without(FORBIDDEN + OPTIONAL, "import attnserve_client; attnserve_client.Client().close()")
    assert done.returncode == 0, done.stderr


def test_the_tools_need_neither_server_nor_exporter() -> None:
    modules = "attnserve_client.cli.app, attnserve_client.attention_plot, attnserve_client.evaluation, attnserve_client.demo"
    done = imports_without(FORBIDDEN, f"import {modules}")
    assert done.returncode == 0, done.stderr


METHODS = [each for each in vars(methods).values() if isinstance(each, methods.Method) and each is not methods.HEALTH_CHECK]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path)
def test_methods_are_the_contracts(method: methods.Method) -> None:  # type: ignore[type-arg]
    service, name = method.path[1:].split("/")
    declared = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    assert declared.input_type is method.request_type.DESCRIPTOR
    assert declared.output_type is method.response_type.DESCRIPTOR


def test_wrappers_stand_in_for_health_messages() -> None:
    request = health_pb2.HealthCheckRequest(service="m").SerializeToString()
    assert methods.HEALTH_CHECK.request_type.FromString(request).value == "m"
    response = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()
    assert methods.HEALTH_CHECK.response_type.FromString(response).value == methods.HEALTH_SERVING


def attention(layer: int, head: int, num_target: int = 1) -> decoding_pb2.Attention:
    return decoding_pb2.Attention(layer=layer, head=head, num_target=num_target, num_source=1, weights=[1.0] * num_target)


@pytest.mark.parametrize(
    "maps",
    [
        [attention(0, 0), attention(0, 0)],
        [attention(0, 0), attention(1, 1)],
        [attention(0, 0), attention(0, 1, 2)],
        [decoding_pb2.Attention(num_target=2, num_source=2, weights=[1.0])],
        [decoding_pb2.Attention(num_target=1, num_source=1, weights=[1.0])] * 2,
    ],
)
def test_attention_that_breaks_the_contract(maps: list[decoding_pb2.Attention]) -> None:
    with pytest.raises(AttnserveError):
        attention_array(maps)


def test_answer_without_hypotheses() -> None:
    with pytest.raises(AttnserveError):
        translation_from_proto(translation_pb2.TranslateResponse())
