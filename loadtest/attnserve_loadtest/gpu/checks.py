# SPDX-License-Identifier: Apache-2.0
"""The checks themselves. They need the server and ONNX Runtime; PyTorch, CTranslate2 and the client where they are there.

What is compared is what a worker does: the engine loop, with its CUDA graphs and without, against the same loop on the CPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import sentencepiece

from attnserve.v1 import manifest_pb2
from attnserve_loadtest.gpu.running import Skip, floor_s
from attnserve_server.bundle.loader import Bundle, find_bundles, load_bundle
from attnserve_server.engine.worker.iterative.factory import make_loop
from attnserve_server.engine.worker.iterative.loop import EngineLoop
from attnserve_server.execution.cuda import row_buckets
from attnserve_server.execution.factory import make_runner
from attnserve_server.execution.runner import IterativeRunner, StepInputs
from attnserve_server.profiling.measure import Workload
from attnserve_server.request import (
    DecodeOptions,
    Done,
    Failed,
    Hypothesis,
    ImageSource,
    Source,
    Terms,
    sequence_work,
)
from attnserve_server.scheduling.scheduler import SchedulerConfig

NUM_SLOTS = 64
POSITION, SOURCE = 12, 16
LEAST_IDENTICAL = {"fp32": 0.98, "fp16": 0.85}
"""Share of sentences whose best hypothesis is that of the CPU's fp32. A half-precision near-tie may go the other way."""
MOST_APART = {"fp32": 1e-3, "fp16": 3e-2}
"""How far the scores of identical hypotheses may be apart."""
REPETITIONS = 50


@dataclass(slots=True)
class Context:
    """What the checks share.

    Attributes:
        models: the repository.
        sentences: to be translated.
        looks_at_values: False over stand-in libraries, whose kernels compute nothing.
        bandwidth: bytes a second that the device copies, once it is measured.
    """

    models: Path
    sentences: list[str]
    looks_at_values: bool = True
    bandwidth: float = 0.0
    engines: dict[tuple[str, str, bool], EngineLoop] = field(default_factory=dict)

    def bundles(self) -> list[tuple[Path, list[str]]]:
        """Each bundle with its CUDA variants."""
        found = []
        for path in find_bundles(self.models):
            manifest = load_bundle(path).manifest
            found.append((path, [each.name for each in manifest.variants if each.device == manifest_pb2.DEVICE_CUDA]))
        return found

    def engine(self, path: Path, device: str, variant: str, *, captures: bool = True) -> EngineLoop:
        """A started engine; one a bundle and variant."""
        key = path.parent.name, variant, captures
        if key not in self.engines:
            bundle = load_bundle(path, device, variant)
            self.engines[key] = make_loop(bundle, SchedulerConfig(NUM_SLOTS), time.monotonic, captures=captures)
            self.engines[key].start()
        return self.engines[key]


def environment(context: Context, figures: dict[str, Any]) -> None:
    """Which device, driver and versions; and that a session runs on CUDA and nowhere else."""
    figures["onnxruntime"] = onnxruntime.__version__
    figures["providers"] = onnxruntime.get_available_providers()
    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type([4], np.float32, "cuda", 0)
    value.update_inplace(np.arange(4, dtype=np.float32))
    assert value.device_name() == "cuda"
    assert value.numpy().tolist() == [0, 1, 2, 3]
    torch = _torch()
    if torch is not None:
        figures["torch"], figures["gpu"] = torch.__version__, torch.cuda.get_device_name(0)
        figures["memory_bytes"] = torch.cuda.get_device_properties(0).total_memory
        context.bandwidth = _bandwidth(torch)
        figures["copy_bandwidth_bytes_per_second"] = context.bandwidth


def parity(context: Context, figures: dict[str, Any]) -> None:
    """Greedy and beam search of all sentences on CUDA and on the CPU, for every bundle and variant."""
    problems = []
    for path, variants in context.bundles():
        cpu = load_bundle(path, "cpu", "fp32")
        sources = _sources(cpu, context.sentences)
        for options in (DecodeOptions(), DecodeOptions(beam_size=5)):
            expected = translate(context.engine(path, "cpu", "fp32"), sources, options)
            for variant in variants:
                found = translate(context.engine(path, "cuda", variant), sources, options)
                same = [a.tokens == b.tokens for a, b in zip(found, expected, strict=True)]
                apart = [abs(a.score - b.score) for a, b, is_same in zip(found, expected, same, strict=True) if is_same]
                name = f"{path.parent.name} {variant} beam {options.beam_size}"
                figures[name] = {
                    "identical": statistics.mean(same),
                    "scores_apart": max(apart, default=0.0),
                    "sentences": len(same),
                }
                precision = "fp32" if "32" in variant else "fp16"
                if statistics.mean(same) < LEAST_IDENTICAL[precision] or max(apart, default=1.0) > MOST_APART[precision]:
                    problems.append(name)
        if not variants:
            figures[path.parent.name] = "no CUDA variant"
    assert not context.looks_at_values or not problems, f"not as on the CPU: {', '.join(problems)}"


def graphs(context: Context, figures: dict[str, Any]) -> None:
    """Replayed CUDA graphs answer as plain runs do, bit for bit, while buckets alternate and others encode between the replays."""
    for path, variants in context.bundles():
        for variant in variants:
            sources = _sources(load_bundle(path), context.sentences)[:80]
            mixed = [DecodeOptions(beam_size=beam, max_tokens=40) for beam in (1, 4, 1, 8, 2)]
            engines = [context.engine(path, "cuda", variant, captures=captures) for captures in (True, False)]
            answers = [translate(engine, sources, mixed, joining=3) for engine in engines]
            same = [(a.tokens, a.score) == (b.tokens, b.score) for a, b in zip(*answers, strict=True)]
            figures[f"{path.parent.name} {variant}"] = {"identical": statistics.mean(same), "sentences": len(same)}
            assert not context.looks_at_values or all(same), "a replayed graph gives another answer than a plain run"


def steps(context: Context, figures: dict[str, Any]) -> None:
    """Time of a step for every bucket of rows, from a replayed graph and from a plain run, against its floor."""
    for path, variants in context.bundles():
        for variant in variants:
            bundle = load_bundle(path, "cuda", variant)
            began = time.perf_counter()
            runners = {captures: _started(bundle, captures=captures) for captures in (True, False)}
            found: dict[str, Any] = {"start_s": round(time.perf_counter() - began, 2)}
            figures[f"{path.parent.name} {variant}"] = found
            for rows in row_buckets(NUM_SLOTS):
                inputs = Workload(rows, 1, SOURCE, POSITION).inputs()
                times = {captures: step_s(runner, inputs) for captures, runner in runners.items()}
                entry = {"graph_ms": 1e3 * times[True], "plain_ms": 1e3 * times[False]}
                if context.bandwidth:
                    floor = floor_s(step_bytes(bundle, rows), context.bandwidth)
                    entry |= {"floor_ms": 1e3 * floor, "over_floor": times[True] / floor}
                found[f"{rows} rows"] = {name: round(value, 4) for name, value in entry.items()}


def pytorch(context: Context, figures: dict[str, Any]) -> None:
    """The same step in PyTorch on the same device, eager and compiled, with a cache of fixed size and in half precision."""
    torch = _torch()
    if torch is None:
        raise Skip("no PyTorch with CUDA here")
    from attnserve_loadtest.gpu.torch_step import TorchStep

    path = context.models / "transformer-en-de" / "1"
    runner = _started(load_bundle(path, "cuda"), captures=True)
    for rows in (1, 8, 32, 64):
        ours = step_s(runner, Workload(rows, 1, SOURCE, POSITION).inputs())
        eager = TorchStep(path, rows, compiled=False).seconds(REPETITIONS)
        entry = {"ours_ms": 1e3 * ours, "eager_ms": 1e3 * eager, "eager_over_ours": eager / ours}
        try:
            compiled = TorchStep(path, rows, compiled=True).seconds(REPETITIONS)
            entry |= {"compiled_ms": 1e3 * compiled, "compiled_over_ours": compiled / ours}
        except Exception as error:  # noqa: BLE001  a compiler may be missing
            figures["compiled"] = f"{type(error).__name__}: {str(error)[:200]}"
        figures[f"{rows} rows"] = {name: round(value, 4) for name, value in entry.items()}


def throughput(context: Context, figures: dict[str, Any]) -> None:
    """Tokens a second of whole translations: our engine with CUDA graphs and without, and CTranslate2 where it is there."""
    path = context.models / "transformer-en-de" / "1"
    sources = _sources(load_bundle(path), context.sentences) * 5
    variant = next(each for found, variants in context.bundles() if found == path for each in variants)
    for beam in (1, 4):
        for captures in (True, False):
            engine, options = context.engine(path, "cuda", variant, captures=captures), DecodeOptions(beam_size=beam)
            translate(engine, sources[:NUM_SLOTS], options)
            began = time.perf_counter()
            answers = translate(engine, sources, options)
            speed = sum(len(each.tokens) for each in answers) / (time.perf_counter() - began)
            figures[f"beam {beam}, {'graphs' if captures else 'plain'}"] = round(speed)
    try:
        figures["CTranslate2 float16"] = _ctranslate2(path, [each for each in sources if isinstance(each, list)])
    except Exception as error:  # noqa: BLE001  it may be missing, or want other libraries
        figures["CTranslate2 float16"] = f"not brought: {type(error).__name__}: {str(error)[:200]}"


def served(context: Context, figures: dict[str, Any]) -> None:
    """A server on the GPU, asked over gRPC as the demo does it."""
    try:
        from attnserve_client.client import Client
        from attnserve_client.demo.server import DemoServer
    except ImportError as error:
        raise Skip(f"the client is not installed: no {error.name}") from error
    path, texts = context.models / "transformer-en-de" / "1", context.sentences[:8]
    cpu = load_bundle(path)
    vocabulary, sources = cpu.manifest.vocabulary, _sources(cpu, texts)
    processor = sentencepiece.SentencePieceProcessor(model_proto=cpu.read(vocabulary.sentencepiece_file))
    expected = translate(context.engine(path, "cpu", "fp32"), sources, DecodeOptions(beam_size=5))
    with DemoServer(["--device", "cuda", "--models", str(context.models)]) as server:
        with Client(f"127.0.0.1:{server.wait_ready().grpc}") as client:
            found = [client.translate(text, beam_size=5).text for text in texts]
        server.stop()
    figures["answers"] = dict(zip(texts, found, strict=True))
    same = [processor.decode(one.tokens) == text for one, text in zip(expected, found, strict=True)]
    figures["identical"] = statistics.mean(same)
    assert not context.looks_at_values or statistics.mean(same) >= LEAST_IDENTICAL["fp16"] - 0.1


def translate(
    engine: EngineLoop, sources: Sequence[Source], options: DecodeOptions | Sequence[DecodeOptions], joining: int = 0
) -> list[Hypothesis]:
    """The best hypothesis of each source; ``joining`` of them come before each step, or all at once."""
    several = [options] if isinstance(options, DecodeOptions) else options
    waiting = [sequence_work(index, each, several[index % len(several)], Terms()) for index, each in enumerate(sources)]
    answers: dict[int, Hypothesis] = {}
    while waiting or engine.has_work:
        count = joining or len(waiting)
        for request in waiting[:count]:
            engine.submit(request)
        del waiting[:count]
        for event in engine.step():
            if isinstance(event, Failed):
                raise AssertionError(event.message)
            if isinstance(event, Done):
                answers[event.request_id] = event.outcome.hypotheses[0]
    engine.stats()
    return [answers[index] for index in range(len(sources))]


def step_s(runner: IterativeRunner, inputs: StepInputs) -> float:
    """Seconds of a step, the median; its outputs are read, so it has ended."""
    times = []
    for _ in range(REPETITIONS):
        began = time.perf_counter()
        runner.step(inputs).best()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def step_bytes(bundle: Bundle, rows: int) -> float:
    """What a step must read and write at least: the decoder's weights, the caches as far as they are filled, and the logits."""
    manifest = bundle.manifest
    weights = (bundle.folder / "weights.bin").stat().st_size  # stored in 16 bits, the encoder's included: an upper bound of a floor
    length = {"target": POSITION + 1, "source": SOURCE}
    caches = 0
    for state in manifest.states:
        sizes = [length.get(axis, int(axis) if axis.isdigit() else 1) for axis in state.axes[1:]]
        caches += 2 * int(np.prod(sizes))
    return weights + rows * (caches + 4 * manifest.vocabulary.size)


def _started(bundle: Bundle, *, captures: bool) -> IterativeRunner:
    runner = make_runner(bundle, NUM_SLOTS, captures=captures)
    runner.start()
    runner.warm_up()
    return runner


def _sources(bundle: Bundle, sentences: Sequence[str]) -> list[Source]:
    """The sentences; for a model that reads images, as many of smooth noise."""
    vocabulary, shape = bundle.manifest.vocabulary, bundle.manifest.image
    if bundle.manifest.HasField("image"):
        rng, times = np.random.default_rng(0), (shape.height // 7, shape.width // 7)
        images = (np.kron(rng.integers(0, 256, (7, 7, 3), np.uint8), np.ones((*times, 1), np.uint8)) for _ in sentences)
        return [ImageSource(image.tobytes(), shape.grid_height * shape.grid_width) for image in images]
    processor = sentencepiece.SentencePieceProcessor(model_proto=bundle.read(vocabulary.sentencepiece_file))
    return [[*processor.encode(text), vocabulary.end_id] for text in sentences]


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def _bandwidth(torch: Any) -> float:
    """Bytes a second that are read and written by a copy on the device."""
    source = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * len(source) / best


def _ctranslate2(path: Path, sources: Sequence[list[int]]) -> dict[str, float]:
    import tempfile

    import ctranslate2

    from attnserve_export.bundles import stored_model
    from attnserve_export.trained import trained_in_bundle
    from attnserve_loadtest.bench.ctranslate2_model import pieces_of, save_ctranslate2

    bundle = load_bundle(path)
    trained, pieces = trained_in_bundle(path), pieces_of(bundle)
    model: Any = stored_model(trained.recipe, trained.weights, len(pieces))
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        save_ctranslate2(model, bundle, Path(folder))
        translator = ctranslate2.Translator(folder, device="cuda", compute_type="float16")
        texts = [[pieces[token] for token in source[:-1]] for source in sources]
        for beam in (1, 4):
            translator.translate_batch(texts[:64], beam_size=beam, max_batch_size=64)
            began = time.perf_counter()
            results = translator.translate_batch(texts, beam_size=beam, max_batch_size=64)
            tokens = sum(len(each.hypotheses[0]) + 1 for each in results)
            figures[f"beam {beam}"] = round(tokens / (time.perf_counter() - began))
    return figures


def device_problem() -> str:
    """Why there is no GPU to check; empty if there is one."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime has no CUDA provider: install onnxruntime-gpu in place of onnxruntime"
    try:
        onnxruntime.preload_dlls()
        onnxruntime.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda", 0)
    except Exception as error:  # noqa: BLE001  whatever the driver says
        return f"no CUDA device can be used: {str(error).splitlines()[0]}"
    return ""
