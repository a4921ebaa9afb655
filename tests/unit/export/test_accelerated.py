# SPDX-License-Identifier: Apache-2.0
"""What a training on a GPU needs and a CPU can show: batches made ahead, an optimizer's state without the device's options."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnserve_export.recipe import ClassificationRecipe, load_recipe
from attnserve_export.training.accelerated import Ahead, Recorded, load_portable, portable_state, set_rate, use_device
from attnserve_export.training.classification.trainer import ClassificationTrainer
from tests.torch_threads import one_thread  # noqa: F401 - a fixture
from tests.unit.export.training_data import make_cifar10

CPU = torch.device("cpu")


def _made(epoch: int, index: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([epoch, index])


def _refused(epoch: int, index: int) -> int:
    raise ValueError(f"no batch {epoch}, {index}")


def test_batches_made_ahead_come_in_the_order_of_the_updates_from_any_start() -> None:
    ahead = Ahead(_made, 3, 3, 2)
    try:
        found = [ahead.take(*divmod(number, 3)).tolist() for number in range(4, 9)]
    finally:
        ahead.close()
    assert found == [[1, 1], [1, 2], [2, 0], [2, 1], [2, 2]]


def test_a_batch_out_of_order_is_the_one_that_was_asked_for() -> None:
    ahead = Ahead(_made, 3, 3, 1)
    try:
        assert [ahead.take(0, 0).tolist(), ahead.take(2, 1).tolist(), ahead.take(0, 1).tolist()] == [[0, 0], [2, 1], [0, 1]]
    finally:
        ahead.close()


def test_what_fails_in_another_process_fails_the_update() -> None:
    ahead = Ahead(_refused, 3, 1, 1)
    try:
        with pytest.raises(ValueError, match="no batch 0, 1"):
            ahead.take(0, 1)
    finally:
        ahead.close()


def _killed(epoch: int, index: int) -> int:
    os._exit(1)


def test_a_process_that_is_killed_fails_the_update() -> None:
    ahead = Ahead(_killed, 3, 1, 1)
    try:
        with pytest.raises(BrokenProcessPool):
            ahead.take(0, 0)
    finally:
        ahead.close()


def _stepped(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> Tensor:
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return parameter.detach().clone()


def test_a_state_from_a_gpu_goes_on_with_the_options_of_this_device() -> None:
    first, second = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    there, here = torch.optim.Adam([first], 0.1, fused=True), torch.optim.Adam([second], 0.1, fused=True)
    there.param_groups[0].update(capturable=True, lr=torch.tensor(0.1))
    state = there.state_dict()
    assert not {"lr", "fused", "capturable", "foreach"} & set(portable_state(there)["param_groups"][0])
    load_portable(here, state)
    assert (here.param_groups[0]["capturable"], here.param_groups[0]["lr"]) == (False, 0.1)
    there.param_groups[0]["capturable"] = False
    assert torch.equal(_stepped(there, first), _stepped(here, second))


def test_the_rate_is_set_in_place_where_a_recorded_step_reads_it() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": parameters[:1], "factor": 0.5}, {"params": parameters[1:]}], 1.0)
    kept = optimizer.param_groups[0]["lr"] = torch.tensor(1.0)
    set_rate(optimizer, 0.5)
    assert (float(kept), optimizer.param_groups[1]["lr"]) == (0.25, 0.5)


def test_on_a_cpu_every_call_runs_as_it_is_written() -> None:
    calls: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        calls.append(x)
        return x * 2

    recorded = Recorded(function, CPU, pytest.fail)
    assert [recorded(torch.tensor([float(number)])) for number in range(5)] == [[0.0], [2.0], [4.0], [6.0], [8.0]]
    assert len(calls) == 5
    assert use_device(CPU) == "cpu"


class _MadeAhead(ClassificationTrainer):
    """Makes batches ahead on a CPU too."""

    def _start_making(self) -> None:
        self._ahead = Ahead(self.batch_ahead, self.updates_per_epoch, self.recipe.schedule.epochs, self.makers)


@pytest.mark.usefixtures("one_thread")
def test_batches_made_ahead_train_the_same_weights(tmp_path: Path) -> None:
    data = make_cifar10(tmp_path / "data")
    changes = {"schedule.epochs": 2, "model.width": 8, "model.blocks": 1, "data.held_back": 20, "schedule.batch": 8}
    recipe = load_recipe("cbam-cifar10", changes)
    assert isinstance(recipe, ClassificationRecipe)
    trainers = [kind(recipe, data, tmp_path / kind.__name__) for kind in (ClassificationTrainer, _MadeAhead)]
    for trainer in trainers:
        trainer.run()
    weights = [trainer.weights() for trainer in trainers]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class _Cuda:
    """CUDA graphs as far as they can be shown on a CPU: what is recorded is run at each replay, on the tensors it was recorded with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> None:
        self.is_recording, self.fails, self.done = False, fails, 0
        self.inputs: list[Tensor] = []
        self.sums = torch.zeros(1)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", self._recording)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: None)

    @contextlib.contextmanager
    def _recording(self, _: object, stream: object) -> Iterator[None]:
        assert stream is None
        self.is_recording = True
        try:
            yield
        finally:
            self.is_recording = False

    def update(self, x: Tensor) -> Tensor:
        """Adds up what it is given."""
        if not self.is_recording:
            self.sums += x
            self.done += 1
        elif self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.inputs.append(x)
        return self.sums

    def replay(self) -> None:
        """The last update that was recorded, once more."""
        self.update(self.inputs[-1])


@pytest.mark.parametrize("fails", [False, True])
def test_each_call_makes_one_update_whether_the_recording_succeeds_or_not(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    cuda, said = _Cuda(monkeypatch, fails=fails), list[str]()
    recorded = Recorded(cuda.update, CPU, said.append, records=True)
    assert [recorded(torch.tensor([float(number)])) for number in range(7)] == [[0.0], [1.0], [3.0], [6.0], [10.0], [15.0], [21.0]]
    assert cuda.done == 7
    assert [text.split(":")[0] for text in said] == ["the update is not recorded as a CUDA graph"] * fails
    replayed = {each.data_ptr() for each in cuda.inputs[3:]}
    assert (len(replayed) == 1) != fails, "replays read the tensors of the recording"
