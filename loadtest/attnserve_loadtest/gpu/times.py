# SPDX-License-Identifier: Apache-2.0
"""Checks of speed: a step against its floor, the work between steps, the time of a start, tokens per second."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attnserve_loadtest.gpu import stepping
from attnserve_loadtest.gpu.context import DEFAULT_MODEL, NUM_SLOTS, Context, options_for, sources_of, translate
from attnserve_loadtest.gpu.results import note
from attnserve_loadtest.gpu.stepping import median_s, started, step_s, workload
from attnserve_server.bundle.loader import Bundle, load_bundle
from attnserve_server.execution.factory import make_runner
from attnserve_server.execution.runner import IterativeRunner
from attnserve_server.request import Source

SLOTS = (NUM_SLOTS, 256, 1024)
BEAM = 4
ROWS = {(64, 1): (1, 8, 64), (64, BEAM): (4, 64)}
"""Rows of the steps that are timed, by slots and beam size; elsewhere all slots."""
GROUPS = (1, 8, 64)
"""Sources of an encoder run."""
MOVED = (1, 16)
"""Rows that are copied together."""


def steps_default(context: Context, figures: dict[str, Any]) -> None:
    """Steps of the default model at 64, 256 and 1,024 slots, see :func:`_steps`."""
    _steps(context, figures, is_default=True, slot_counts=SLOTS)


def steps_others(context: Context, figures: dict[str, Any]) -> None:
    """Steps of the other models at 64 slots, see :func:`_steps`."""
    _steps(context, figures, is_default=False, slot_counts=SLOTS[:1])


def _steps(context: Context, figures: dict[str, Any], *, is_default: bool, slot_counts: tuple[int, ...]) -> None:
    """Time of a greedy and of a beam step, with CUDA graphs and without, beside its floor and the time of its bytes."""
    floor = context.earlier("floor")
    cases = [(path, variant, slots) for slots in slot_counts for path, variant in context.cuda_variants(is_default=is_default)]
    for path, variant, slots in context.in_time(cases, figures, lambda case: f"{case[0].parent.name}, {case[2]} slots"):
        bundle = load_bundle(path, "cuda", variant)
        runners = {captures: started(bundle, slots, captures=captures) for captures in (True, False)}
        for beam in (1, BEAM):
            for rows in ROWS.get((slots, beam), (slots,)):
                entry = _step_entry(runners, rows, beam, floor)
                figures[f"{path.parent.name} {variant}, {slots} slots, beam {beam}, {rows} rows"] = entry
                if rows == slots:
                    text = f"beam {beam} graph {entry['graph_ms']} ms, plain {entry['plain_ms']}, floor {entry['floor_ms']}"
                    text += f" ({entry['kernels']} kernels), bytes {entry['bytes_ms']}"
                    note(figures, f"{path.parent.name}, {slots} rows", text)


def _step_entry(runners: Mapping[bool, IterativeRunner], rows: int, beam: int, floor: Mapping[str, Any]) -> dict[str, Any]:
    """The time of a step with CUDA graphs (True) and without (False), and its floor."""
    bundle, inputs = runners[True].bundle, workload(rows, beam)
    kernels = stepping.num_kernels(bundle.folder / runners[True].choose(inputs).declared.graph.file)
    entry: dict[str, Any] = {
        "graph_ms": 1e3 * step_s(runners[True], inputs),
        "plain_ms": 1e3 * step_s(runners[False], inputs),
        "kernels": kernels,
        "floor_ms": stepping.floor_ms(kernels, rows, floor),
        "bytes_ms": stepping.bytes_ms(stepping.step_bytes(bundle, rows), floor),
    }
    entry["over_floor"] = entry["graph_ms"] / entry["floor_ms"] if entry["floor_ms"] else None
    return _rounded(entry)


def moves(context: Context, figures: dict[str, Any]) -> None:
    """The work between steps, in milliseconds: encoding, inserting new requests, copying rows, moving requests."""
    for path, variant in context.in_time(context.cuda_variants(), figures, lambda case: case[0].parent.name):
        bundle = load_bundle(path, "cuda", variant)
        sources = sources_of(bundle, (context.sentences * GROUPS[-1])[: GROUPS[-1]])
        entry = _move_times(started(bundle, NUM_SLOTS, captures=True), sources)
        figures[f"{path.parent.name} {variant}"] = _rounded(entry)
        shown = (f"{name} {value:.3f}" for name, value in entry.items() if "first" not in name)
        note(figures, path.parent.name, f"{', '.join(shown)} ms")


def _move_times(runner: IterativeRunner, sources: Sequence[Source]) -> dict[str, float]:
    """Milliseconds of each operation, the median; of the encoder's first run with so many sources too, as it may plan kernels."""
    state = runner.state

    def timed(function: Any, *arguments: Any) -> float:
        return 1e3 * median_s(functools.partial(function, *arguments), 20)

    times: dict[str, float] = {}
    for count in GROUPS:
        began = time.perf_counter()
        runner.encode(sources[:count])
        times[f"encode {count}, first"] = 1e3 * (time.perf_counter() - began)
        times[f"encode {count}"] = timed(runner.encode, sources[:count])
        times[f"insert {count}"] = timed(state.insert, range(count), range(count), runner.encode(sources[:count]))
    for count in MOVED:
        times[f"copy {count} rows"] = timed(state.copy_rows, range(count), range(NUM_SLOTS - count, NUM_SLOTS), stepping.POSITION)
    times["move a request"] = timed(state.move_request, 0, NUM_SLOTS - 1, stepping.SOURCE)
    return times


def captures(context: Context, figures: dict[str, Any]) -> None:
    """The cost of a start: seconds with captures and without, bytes per captured graph; and the chosen attention kernels."""
    for path, variant in context.in_time(context.cuda_variants(), figures, lambda case: case[0].parent.name):
        bundle = load_bundle(path, "cuda", variant)
        plain_s, plain_bytes = _start(bundle, captures=False)
        captured_s, captured_bytes = _start(bundle, captures=True)
        count = stepping.num_captures(bundle, NUM_SLOTS)
        entry: dict[str, Any] = {
            "start_s": captured_s,
            "start_plain_s": plain_s,
            "graphs": count,
            "seconds_a_graph": (captured_s - plain_s) / count,
            "bytes_a_graph": round((captured_bytes - plain_bytes) / count),
            "attention_kernels": stepping.attention_kernels(bundle),
        }
        figures[f"{path.parent.name} {variant}"] = entry = _rounded(entry)
        size = f"{count} graphs of {entry['bytes_a_graph'] / 1024:.0f} KiB"
        text = f"start {entry['start_s']} s (plain {entry['start_plain_s']}), {size}"
        note(figures, path.parent.name, f"{text}, attention kernels {entry['attention_kernels'] or 'not named'}")


def _start(bundle: Bundle, *, captures: bool) -> tuple[float, int]:
    """Seconds to load and warm up, and bytes of the device that the warm-up takes."""
    began = time.perf_counter()
    runner = make_runner(bundle, NUM_SLOTS, captures=captures)
    runner.start()
    free = stepping.free_bytes()
    runner.warm_up()
    return time.perf_counter() - began, free - stepping.free_bytes()


def throughput(context: Context, figures: dict[str, Any]) -> None:
    """Tokens per second of whole translations, all sentences at once: by slots, with graphs and without; others at 64 slots."""
    default = [(path, variant) for path, variant in context.cuda_variants() if path.parent.name == DEFAULT_MODEL]
    others = [each for each in context.cuda_variants() if each not in default]
    cases = [(*each, slots, 1, True) for each in default for slots in SLOTS]
    cases += [(*each, NUM_SLOTS, 1, False) for each in default]
    cases += [(*each, slots, BEAM, True) for each in default for slots in SLOTS]
    cases += [(*each, NUM_SLOTS, beam, True) for each in others for beam in (1, BEAM)]
    for case in context.in_time(cases, figures, lambda case: _case_name(*case)):
        path, _, slots, beam, captures = case
        figures[_case_name(*case)] = found = _tokens_a_second(context, *case)
        how = f"{slots} slots beam {beam}{'' if captures else ' plain'}"
        note(figures, f"{path.parent.name}, tokens/s", f"{how} {found['tokens_a_second']}")


def _tokens_a_second(context: Context, path: Path, variant: str, slots: int, beam: int, captures: bool) -> dict[str, Any]:
    """Tokens per second; the median time of a step, and of a step with all rows live; and the number of such steps."""
    copies = 1 if path.parent.name != DEFAULT_MODEL else 5 if beam == 1 else 2
    bundle, engine = load_bundle(path), context.engine(path, "cuda", variant, captures=captures, slots=slots)
    sources, options = sources_of(bundle, context.sentences) * copies, options_for(bundle, beam)
    translate(engine, sources[: min(slots, len(context.sentences))], options)
    engine.stats()
    began = time.perf_counter()
    answers = translate(engine, sources, options)
    seconds = time.perf_counter() - began
    steps = [step for step in engine.stats().steps if step.num_rows]
    full = [step.step_s for step in steps if step.num_rows > 0.9 * slots]
    return {
        "tokens_a_second": round(sum(len(each.tokens) for each in answers) / seconds),
        "step_ms": round(1e3 * statistics.median(step.step_s for step in steps), 4),
        "full_step_ms": round(1e3 * statistics.median(full), 4) if full else None,
        "steps": len(steps),
        "encode_share": round(sum(step.encode_s for step in steps) / seconds, 3),
    }


def _case_name(path: Path, variant: str, slots: int, beam: int, captures: bool) -> str:
    return f"{path.parent.name} {variant}, {slots} slots, beam {beam}{'' if captures else ', plain'}"


def _rounded(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in entry.items()}
