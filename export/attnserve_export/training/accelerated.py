# SPDX-License-Identifier: Apache-2.0
"""Training on a GPU: updates as CUDA graphs, optimizers that such a graph can hold, and batches made ahead by other processes.

The networks of the single-pass models are small: an update is some hundred to two thousand kernels of a few microseconds each, and
without a graph the time to launch them is most of the time of an update.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")
_EAGER_CALLS = 3
_DEPTH = 8
_ORPHAN_POLL_S = 2.0
_LOCAL = ("lr", "fused", "capturable", "foreach")
"""Options of a parameter group that depend on the device, not on the run."""
_makes: list[Callable[[int, int], Any]] = []
"""In a process of :class:`Ahead`: what makes its batches."""


def use_device(device: torch.device) -> str:
    """Prepares the process for a device, and says what it computes with; called once, before the run is prepared.

    On a GPU all work is put on a stream that CUDA can record. Convolutions are in TF32, PyTorch's default.
    """
    if device.type != "cuda":
        return device.type
    torch.cuda.set_stream(torch.cuda.Stream(device))
    torch.backends.cuda.enable_cudnn_sdp(False)  # builds a plan for each shape; the other kernels do not
    return f"{torch.cuda.get_device_name(device)}, convolutions in TF32"


class Recorded:
    """A function of tensors that updates weights: on a GPU it is recorded as a CUDA graph at its fourth call, then replayed.

    Every call makes exactly one update. The first calls run as they are written, since optimizers and libraries allocate memory in
    them. If the recording fails, all calls run as they are written.

    Args:
        function: from tensors of fixed shapes on the device to one tensor of figures. It must not wait for the device.
        device: where the tensors that it is given are copied to.
        say: is given the reason if the recording fails.
        records: whether it is recorded; None: on a GPU only.
    """

    def __init__(
        self, function: Callable[..., Tensor], device: torch.device, say: Callable[[str], object], records: bool | None = None
    ) -> None:
        self._function, self._device, self._say = function, device, say
        self._calls = 0
        self._records = device.type == "cuda" if records is None else records
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._figures: Tensor | None = None
        self._done = torch.cuda.Event(blocking=True) if device.type == "cuda" else None

    def __call__(self, *inputs: Tensor) -> list[float]:
        """The figures of one update."""
        if self._records and self._calls == _EAGER_CALLS:
            self._record(inputs)
        self._calls += 1
        if self._graph is None or self._figures is None:
            return _as_list(self._function(*(each.to(self._device) for each in inputs)))
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given, non_blocking=True)
        self._graph.replay()
        if self._done is not None:  # waiting must leave the processor to the processes that make batches
            self._done.record()
            self._done.synchronize()
        return _as_list(self._figures)

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        graph = torch.cuda.CUDAGraph()
        self._inputs = [each.to(self._device).clone() for each in inputs]
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(self._device)):
                self._figures = self._function(*self._inputs)
        except RuntimeError as error:
            self._figures = None
            self._say(f"the update is not recorded as a CUDA graph: {error}")
        else:
            self._graph = graph


def _as_list(figures: Tensor) -> list[float]:
    found: list[float] = figures.detach().tolist()
    return found


def use_recordable(optimizers: Iterable[torch.optim.Optimizer], device: torch.device) -> None:
    """On a GPU: a step of the optimizers can be recorded, and a recorded one reads the rates that :func:`set_rate` sets."""
    if device.type == "cuda":
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = torch.tensor(float(group["lr"]), dtype=torch.float32, device=device)
            group["fused"], group["foreach"] = True, False
            if "capturable" in group:
                group["capturable"] = True


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of all groups; a group's ``factor``, if it has one, scales it."""
    for group in optimizer.param_groups:
        scaled = rate * group.get("factor", 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(scaled)
        else:
            group["lr"] = scaled


def portable_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state without what depends on the device."""
    state = optimizer.state_dict()
    groups = [{key: value for key, value in group.items() if key not in _LOCAL} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def load_portable(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads what :func:`portable_state` gave, or a state that holds the device's options too; these stay as they are here."""
    own = [{key: group[key] for key in _LOCAL if key in group} for group in optimizer.param_groups]
    groups = [{**group, **kept} for group, kept in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})


class Ahead(Generic[Batch]):
    """Batches of the coming updates, made by other processes while an update is under way.

    Args:
        make: a batch by epoch and update, both from 0. It runs in forked processes and must not use the GPU.
        updates_per_epoch: after so many updates the next epoch begins.
        epochs: after so many epochs nothing more is made.
        processes: that make batches.
    """

    def __init__(self, make: Callable[[int, int], Batch], updates_per_epoch: int, epochs: int, processes: int) -> None:
        self._per_epoch, self._end = updates_per_epoch, updates_per_epoch * epochs
        self._pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _start_maker, (make,))
        self._coming: deque[tuple[int, Future[Batch]]] = deque()
        self._depth = _DEPTH * processes

    def take(self, epoch: int, index: int) -> Batch:
        """The batch of an update. Updates are asked for in their order; the first may be any.

        Raises:
            BrokenProcessPool: a process was killed.
        """
        wanted = epoch * self._per_epoch + index
        if self._coming and self._coming[0][0] != wanted:
            self._coming.clear()
        following = self._coming[-1][0] + 1 if self._coming else wanted
        for number in range(following, min(wanted + self._depth, self._end)):
            self._coming.append((number, self._pool.submit(_made, *divmod(number, self._per_epoch))))
        return self._coming.popleft()[1].result()

    def close(self) -> None:
        """Ends the processes."""
        self._pool.shutdown(cancel_futures=True)


def _start_maker(make: Callable[[int, int], Any]) -> None:
    _makes.append(make)
    os.nice(5)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the run ends this process, once it has made its last update
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when its parent was killed."""
    while os.getppid() == parent:
        time.sleep(_ORPHAN_POLL_S)
    os._exit(1)


def _made(epoch: int, index: int) -> Any:
    return _makes[0](epoch, index)
