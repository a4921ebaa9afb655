# SPDX-License-Identifier: Apache-2.0
"""An OTLP receiver: OpenTelemetry's own service of traces over gRPC, on a free port of the loopback."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass
class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it receives; while ``gate`` is not set, its calls wait. ``address`` is set by ``receive``."""

    address: str = ""
    spans: list[Any] = field(default_factory=list)
    resources: list[Any] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    num_calls: int = 0

    def Export(self, request: Any, context: Any) -> Any:
        self.num_calls += 1
        while not self.gate.wait(0.05):
            if not context.is_active():
                return trace_service_pb2.ExportTraceServiceResponse()
        for resource in request.resource_spans:
            self.resources.append(attributes(resource.resource))
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


class OtlpServer:
    """A receiver that runs from ``with`` on."""

    def __init__(self) -> None:
        self.receiver = Receiver()
        self.receiver.gate.set()
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self.receiver, self._server)
        self.receiver.address = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Receiver:
        self._server.start()
        return self.receiver

    def __exit__(self, *error: object) -> None:
        self.receiver.gate.set()
        self._server.stop(None).wait()


def attributes(of: Any) -> Mapping[str, Any]:
    """The attributes of a span or a resource."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


def main() -> None:
    """Prints the address, receives until standard input ends, and prints the number of spans."""
    with OtlpServer() as receiver:
        print(receiver.address, flush=True)
        sys.stdin.read()
        print(len(receiver.spans))


if __name__ == "__main__":
    main()
