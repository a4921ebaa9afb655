# SPDX-License-Identifier: Apache-2.0
"""A server on the device, called over gRPC: its answers, and its speed with 1, 32 and 256 clients in a closed loop."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from attnserve.v1 import translation_pb2
from attnserve_loadtest.gpu.answers import LEAST_IDENTICAL
from attnserve_loadtest.gpu.context import NUM_SLOTS, Context, sources_of, translate
from attnserve_loadtest.gpu.results import Skip, note
from attnserve_server.bundle.loader import load_bundle
from attnserve_server.request import DecodeOptions

CLIENTS = (32, 256, 1)
NUM_TEXTS = 8
"""Number of sentences whose answers are compared; one near-tie is an eighth of them."""
BEAM = 5
SERVER, WORKER = "front", "workers"


def served(context: Context, figures: dict[str, Any]) -> None:
    """Requests and tokens a second, latency, time of the first message of a stream, and processor time of front and workers.

    Raises:
        AssertionError: the answers are not those of the engine on the CPU.
        Skip: the client's packages are missing.
    """
    try:
        from attnserve_client.client import Client
        from attnserve_loadtest.bench.servers import our_server
    except ImportError as error:
        raise Skip(f"the client is not installed: no {error.name}") from error
    path, texts = context.cuda_variants(is_default=True)[0][0], context.sentences[:NUM_TEXTS]
    began = time.perf_counter()
    with only([path]) as models, our_server(models, "auto", "--device", "cuda", "--slots", str(NUM_SLOTS)) as address:
        figures["start_s"] = round(time.perf_counter() - began, 2)
        with Client(address) as client:
            found = [client.translate(text, beam_size=BEAM).text for text in texts]
        figures["answers"] = dict(zip(texts, found, strict=True))
        _load(context, figures, address)
    expected = _expected(context, path, texts)
    figures["identical"] = statistics.mean(a == b for a, b in zip(found, expected, strict=True))
    lowest = LEAST_IDENTICAL["fp16"] - 1 / len(texts)
    assert not context.looks_at_values or figures["identical"] >= lowest, "the served answers are not those of the CPU"


@contextlib.contextmanager
def only(bundles: Sequence[Path]) -> Iterator[Path]:
    """A model repository of these models, so that no other model delays the start or makes it fail."""
    with tempfile.TemporaryDirectory() as folder:
        for model in {bundle.parent for bundle in bundles}:
            Path(folder, model.name).symlink_to(model)
        yield Path(folder)


def _expected(context: Context, path: Path, texts: list[str]) -> list[str]:
    """The answers of the engine on the CPU."""
    bundle = load_bundle(path)
    processor = sentencepiece.SentencePieceProcessor(model_proto=bundle.read(bundle.manifest.vocabulary.sentencepiece_file))
    answers = translate(context.engine(path, "cpu", "fp32"), sources_of(bundle, texts), DecodeOptions(beam_size=BEAM))
    return [processor.decode(answer.tokens) for answer in answers]


def _load(context: Context, figures: dict[str, Any], address: str) -> None:
    """Greedy translations by number of clients: five times the sentences; from one client, half of them."""
    from attnserve_loadtest.bench.servers import STREAM, UNARY, closed_loop

    cases = [(clients, method) for clients in CLIENTS for method in (UNARY, STREAM)]
    for clients, method in context.in_time(cases, figures, lambda case: f"{case[0]} clients"):
        texts = context.sentences[: max(1, len(context.sentences) // 2)] if clients == 1 else context.sentences * 5
        before = cpu_seconds()
        load = closed_loop(address, texts, method, clients)
        spent = {name: seconds - before.get(name, 0.0) for name, seconds in cpu_seconds().items()}
        entry: dict[str, Any] = {
            "requests": len(texts),
            "requests_a_second": round(len(texts) / load.seconds, 1),
            "tokens_a_second": round(_num_tokens(load.answers, method == STREAM) / load.seconds),
            **{f"p{share}_ms": round(1e3 * load.percentile(share / 100), 3) for share in (50, 99)},
            **{f"cpu_ms_a_request_{name}": round(1e3 * seconds / len(texts), 4) for name, seconds in spent.items()},
        }
        if load.first_messages:
            entry |= {f"ttft_p{share}_ms": round(1e3 * load.first_percentile(share / 100), 3) for share in (50, 99)}
        name = f"{clients} clients, {method.rpartition('/')[2]}"
        figures[name] = entry
        first = f", TTFT {entry['ttft_p50_ms']}/{entry['ttft_p99_ms']}" if load.first_messages else ""
        text = f"{entry['requests_a_second']} requests/s, {entry['tokens_a_second']} tokens/s"
        note(figures, f"{clients} clients", f"{text}, p50/p99 {entry['p50_ms']}/{entry['p99_ms']}{first} ms")


def _num_tokens(answers: list[bytes], is_streamed: bool) -> int:
    """Tokens of the best hypotheses."""
    if is_streamed:
        found = [translation_pb2.TranslateStreamResponse.FromString(answer).result for answer in answers]
    else:
        found = [translation_pb2.TranslateResponse.FromString(answer) for answer in answers]
    return sum(len(response.hypotheses[0].pieces) for response in found)


def cpu_seconds() -> dict[str, float]:
    """Processor seconds so far of this process's server (its children) and of the server's workers (their descendants)."""
    tick, parents, seconds = os.sysconf("SC_CLK_TCK"), dict[int, int](), dict[int, float]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        pid = int(stat.parent.name)
        parents[pid], seconds[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / tick
    found: dict[str, float] = defaultdict(float)
    for pid in seconds:
        ancestors = [pid]
        while ancestors[-1] in parents and ancestors[-1] != os.getpid():
            ancestors.append(parents[ancestors[-1]])
        if ancestors[-1] == os.getpid() and len(ancestors) > 1:
            found[SERVER if len(ancestors) == 2 else WORKER] += seconds[pid]
    return dict(found)
