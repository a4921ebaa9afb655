# SPDX-License-Identifier: Apache-2.0
"""A process with a gRPC server whose system refuses it a worker for a while; says what happens. See ``test_pool.py``."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attnserve_server.engine.front.pool import WorkerPool
from attnserve_server.process import run


class Health(health_pb2_grpc.HealthServicer):
    """Serves."""

    async def Check(self, request: health_pb2.HealthCheckRequest, context: object) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


async def main(interpreter: str) -> None:
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    stub = health_pb2_grpc.HealthStub(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))

    async def ask() -> None:
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
        print("answered", flush=True)

    pool, lost, came = WorkerPool(1, python=interpreter), asyncio.Queue[str](), asyncio.Queue[str]()
    await pool.open()
    await pool.start(lambda worker, _: came.put_nowait(worker), lost.put_nowait)
    await came.get()
    await ask()
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    os.kill(next(iter(pool.pids().values())), signal.SIGKILL)
    await lost.get()
    await lost.get()
    print("refused", flush=True)
    resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
    await ask()
    print(await asyncio.wait_for(came.get(), 20), flush=True)
    os._exit(0)


if __name__ == "__main__":
    interpreter, loop = sys.argv[1:]
    {"asyncio": asyncio.run, "served": run}[loop](main(interpreter))
