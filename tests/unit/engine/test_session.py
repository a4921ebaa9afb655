# SPDX-License-Identifier: Apache-2.0
"""Which device is used, and what is said where CUDA cannot be: on a machine without a GPU, with the ONNX Runtime for CPUs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from attnserve_server.engine.link.messages import Hello, Stop
from attnserve_server.engine.worker.worker import Worker
from attnserve_server.execution import session
from attnserve_server.execution.session import device_problem, make_session, resolve_device
from tests.driving import DEFAULT_BUNDLE
from tests.fakes.channel import Channel

NO_PROVIDER = (
    "this ONNX Runtime was built without CUDA; install the extra gpu in place of cpu, in a new environment: "
    'pip install "attnserve[server,gpu]"'
)


def with_provider(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    """As with onnxruntime-gpu and a driver, where an allocation fails with the error."""

    def allocate(*_: Any) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(session, "DRIVER", "libc.so.6")
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "OrtValue", SimpleNamespace(ortvalue_from_shape_and_type=allocate))


def test_cpu_can_always_be_used() -> None:
    assert device_problem("cpu") == ""


def test_runtime_without_the_provider_is_named() -> None:
    assert device_problem("cuda") == NO_PROVIDER
    assert [resolve_device(device) for device in ("auto", "cpu", "cuda")] == ["cpu", "cpu", "cuda"]


def test_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_provider(monkeypatch)
    monkeypatch.setattr(session, "DRIVER", "libnone.so.1")
    assert device_problem("cuda") == "libnone.so.1: cannot open shared object file: No such file or directory"
    assert resolve_device("auto") == "cpu"


def test_first_line_of_a_failed_allocation_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with_provider(monkeypatch, RuntimeError("CUDA failure 100: no CUDA-capable device is detected\nGPU=0"))
    assert device_problem("cuda") == "CUDA failure 100: no CUDA-capable device is detected"
    assert resolve_device("auto") == "cpu"


def test_failed_allocation_without_a_text_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_provider(monkeypatch, MemoryError())
    assert device_problem("cuda") == "MemoryError"


def test_device_that_can_be_used_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with_provider(monkeypatch)
    assert device_problem("cuda") == ""
    assert resolve_device("auto") == "cuda"


def test_worker_says_why_it_cannot_use_its_device() -> None:
    channel: Any = Channel([Stop()])
    Worker(channel, "cuda").run()
    assert channel.said == [Hello("cuda", onnxruntime.__version__, NO_PROVIDER)]


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_session_for_cuda_is_none_on_the_cpu() -> None:
    with pytest.raises(RuntimeError, match="cannot load its CUDA provider"):
        make_session(DEFAULT_BUNDLE / "encode_cuda.onnx", "cuda")
