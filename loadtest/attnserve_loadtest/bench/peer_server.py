# SPDX-License-Identifier: Apache-2.0
"""CTranslate2 behind a server like ours: grpc.aio, the same protos and tokenizer, dynamic batches.

    python -m attnserve_loadtest.bench.peer_server BUNDLE CONVERTED --window-ms 2

A batch takes the waiting requests, up to its size, once the first of them has waited for the window and the previous batch is done.
The process prints its port when it is ready.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

import grpc

from attnserve.v1 import decoding_pb2, translation_pb2, translation_pb2_grpc
from attnserve_loadtest.bench.contestants import Peer, Tokens, Vocabulary
from attnserve_server.bundle.loader import load_bundle

Waiting = tuple[Tokens, "asyncio.Future[Tokens]"]


class Batcher:
    """Collects the requests of a window and translates them on a thread, one batch after the other."""

    def __init__(self, peer: Peer, window_s: float, batch_size: int) -> None:
        self._peer, self._window_s, self._batch_size = peer, window_s, batch_size
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue()

    async def translate(self, source: Tokens) -> Tokens:
        """Translates one source; returns when its batch is done."""
        answer: asyncio.Future[Tokens] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((source, answer))
        return await answer

    async def run(self) -> None:
        """Forms batches until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            until = loop.time() + self._window_s
            while len(batch) < self._batch_size:
                try:
                    batch.append(self._queue.get_nowait())
                except asyncio.QueueEmpty:
                    if loop.time() >= until:
                        break
                    await asyncio.sleep(min(0.0005, until - loop.time()))
            answers = await asyncio.to_thread(self._peer.translate, [source for source, _ in batch])
            for (_, waiting), tokens in zip(batch, answers, strict=True):
                if not waiting.done():
                    waiting.set_result(tokens)


class Servicer(translation_pb2_grpc.TranslationServiceServicer):
    """Serves unary translation only."""

    def __init__(self, batcher: Batcher, vocabulary: Vocabulary) -> None:
        self._batcher, self._vocabulary = batcher, vocabulary

    async def Translate(self, request: Any, context: Any) -> translation_pb2.TranslateResponse:
        """One text."""
        (source,) = self._vocabulary.encode([request.text])
        tokens = await self._batcher.translate(source)
        (text,) = self._vocabulary.decode([tokens])
        return translation_pb2.TranslateResponse(hypotheses=[decoding_pb2.Hypothesis(text=text)])


async def serve(arguments: argparse.Namespace) -> None:
    """Serves on a free port of the loopback until the process is ended."""
    bundle = load_bundle(arguments.bundle, variant=arguments.variant)
    peer = Peer(arguments.converted, bundle, arguments.variant, arguments.batch_size, 1, arguments.replicas)
    batcher = Batcher(peer, arguments.window_ms / 1e3, arguments.batch_size)
    server = grpc.aio.server()
    translation_pb2_grpc.add_TranslationServiceServicer_to_server(Servicer(batcher, Vocabulary.of(bundle)), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.gather(*(batcher.run() for _ in range(arguments.replicas)))


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("converted", type=Path)
    parser.add_argument("--variant", default="int8")
    parser.add_argument("--window-ms", type=float, default=2.0)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--replicas", type=int, default=1)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
