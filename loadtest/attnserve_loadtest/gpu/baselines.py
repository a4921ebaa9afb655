# SPDX-License-Identifier: Apache-2.0
"""Baselines with the same weights on the same device: PyTorch's step, eager, captured and compiled; CTranslate2."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attnserve_loadtest.gpu import stepping
from attnserve_loadtest.gpu.context import NUM_SLOTS, Context, sources_of, torch_device
from attnserve_loadtest.gpu.results import Skip, note
from attnserve_server.bundle.loader import load_bundle

ROWS = (1, 64)
"""Rows of a step; ``torch.compile`` compiles once for each of them."""
BATCH = 64


def torch_steps(context: Context, figures: dict[str, Any]) -> None:
    """A greedy step of the Transformer: ours, and PyTorch's, eager and captured into a CUDA graph.

    Raises:
        Skip: there is no PyTorch with CUDA.
    """
    _torch(context, figures, ("eager", "captured"))


def compiled(context: Context, figures: dict[str, Any]) -> None:
    """The same step with ``torch.compile``; needs a compiler, and compiles for tens of seconds.

    Raises:
        Skip: there is no PyTorch with CUDA.
    """
    _torch(context, figures, ("compiled",))


def _torch(context: Context, figures: dict[str, Any], ways: Sequence[Any]) -> None:
    device, path = torch_device(), _default_bundle(context)
    if device == "cpu" and context.looks_at_values:
        raise Skip("PyTorch has no CUDA here")
    from attnserve_loadtest.gpu.torch_step import TorchStep

    runner = stepping.started(load_bundle(path, "cuda"), NUM_SLOTS, captures=True)
    for rows in context.in_time(ROWS, figures, lambda rows: f"{rows} rows"):
        ours = stepping.step_s(runner, stepping.workload(rows, 1))
        entry: dict[str, Any] = {"ours_ms": round(1e3 * ours, 4)}
        for way in ways:
            if way == "captured" and device == "cpu":
                continue
            seconds = TorchStep(path, rows, way, device=device).seconds(stepping.REPETITIONS if device == "cuda" else 3)
            entry |= {f"{way}_ms": round(1e3 * seconds, 4), f"{way}_over_ours": round(seconds / ours, 3)}
            figures[f"{rows} rows"] = entry
        note(figures, f"{rows} rows", ", ".join(f"{name} {value}" for name, value in entry.items()))


def ctranslate2(context: Context, figures: dict[str, Any]) -> None:
    """Tokens a second of CTranslate2 in float16, greedy and beam 4; without CUDA (a rehearsal) in float32 on the CPU.

    Raises:
        ImportError: it is not installed, or PyTorch is not.
        RuntimeError: its CUDA libraries are missing.
    """
    import ctranslate2 as peer

    from attnserve_export.bundles import stored_model
    from attnserve_export.trained import trained_in_bundle
    from attnserve_loadtest.bench.ctranslate2_model import pieces_of, save_ctranslate2

    path = _default_bundle(context)
    bundle, trained = load_bundle(path), trained_in_bundle(path)
    pieces = pieces_of(bundle)
    model: Any = stored_model(trained.recipe, trained.weights, len(pieces))
    device, compute_type, copies = ("cuda", "float16", 5) if context.looks_at_values else ("cpu", "float32", 1)
    sources = [each for each in sources_of(bundle, context.sentences) if isinstance(each, list)] * copies
    texts = [[pieces[token] for token in source[:-1]] for source in sources]
    with tempfile.TemporaryDirectory() as folder:
        save_ctranslate2(model, bundle, Path(folder))
        translator = peer.Translator(folder, device=device, compute_type=compute_type)
        for beam in (1, 4):
            translator.translate_batch(texts[:BATCH], beam_size=beam, max_batch_size=BATCH)
            began = time.perf_counter()
            results = translator.translate_batch(texts, beam_size=beam, max_batch_size=BATCH)
            tokens = sum(len(each.hypotheses[0]) + 1 for each in results)
            figures[f"beam {beam}"] = round(tokens / (time.perf_counter() - began))
    note(figures, f"{compute_type} on {device}", f"tokens/s greedy {figures['beam 1']}, beam 4 {figures['beam 4']}")


def _default_bundle(context: Context) -> Path:
    """The folder of the Transformer.

    Raises:
        Skip: the repository does not have it.
    """
    return context.cuda_variants(is_default=True)[0][0]
