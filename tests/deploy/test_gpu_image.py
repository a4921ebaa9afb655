# SPDX-License-Identifier: Apache-2.0
"""The server's image for GPUs, built as it is written; and how it runs on a machine without a GPU.

The build downloads gigabytes, and takes 16 GB of disk while it runs; all of it is removed afterwards.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import ROOT, Engine, build
from tests.deploy.serving import await_ready, tasks_answered
from tests.deploy.test_image import DOCKERFILE, RESTRICTED
from tests.deploy.tools import CACHE

BUILD_S = 2400
pytestmark = [pytest.mark.long, pytest.mark.timeout(BUILD_S + 300)]
NEEDED_BYTES = 18_000_000_000
MAX_BYTES = 3_200_000_000
PYTHON = "/opt/attnserve/bin/python"
PRELOAD = """
import json, onnxruntime
onnxruntime.preload_dlls()
loaded = sorted({line.split()[-1] for line in open("/proc/self/maps") if "/nvidia/" in line})
print(json.dumps([onnxruntime.get_available_providers(), loaded]))
"""
"""Loads NVIDIA's libraries as the server does; a failure is printed."""
LINKED = """
cd /opt/attnserve/lib/python3*/site-packages
LD_LIBRARY_PATH=$(echo $PWD/nvidia/*/lib | tr ' ' :) ldd onnxruntime/capi/libonnxruntime_providers_cuda.so
"""
"""Prints where the libraries are that the CUDA provider is linked with."""


@pytest.fixture(scope="module")
def gpu_image(containers: Engine) -> Iterator[str]:
    """Name of the image for GPUs, built from this checkout without layers that stay."""
    free = shutil.disk_usage(CACHE).free
    assert free > NEEDED_BYTES, f"building the image for GPUs takes {NEEDED_BYTES / 1e9:.0f} GB; {CACHE} has {free / 1e9:.0f}"
    with tempfile.TemporaryDirectory(dir=CACHE) as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(containers.environment, "TMPDIR", folder)  # buildah's temporary files, and the cache of pip in the build
        options = ("--build-arg", "EXTRA=gpu", "--layers=false", "--force-rm")
        image = build(containers, DOCKERFILE, "attnserve:gpu-test", *options, timeout=BUILD_S)
    yield image
    containers.buildah("rmi", "--force", image)


def in_image(containers: Engine, image: str, program: str, *arguments: str) -> str:
    """Runs a program of the image without privileges and returns its output."""
    return containers.podman("run", "--rm", *RESTRICTED, "--entrypoint", program, image, *arguments)


def test_gpu_image_has_the_locked_packages_and_runs_as_another_user_than_root(containers: Engine, gpu_image: str) -> None:
    locked = re.findall(r"^(\S+)==(\S+) ", (ROOT / "deploy/docker/requirements-gpu.txt").read_text(encoding="utf-8"), re.MULTILINE)
    program = "import importlib.metadata as m; print(*(f'{d.name.lower()}=={d.version}' for d in m.distributions()))"
    found = {each.replace("_", "-") for each in in_image(containers, gpu_image, PYTHON, "-c", program).split()}
    assert {each for each in found if not each.startswith("attnserve==")} == {f"{name}=={version}" for name, version in locked}
    size = int(containers.inspect(gpu_image, ".Size"))
    print(f"the image for GPUs: {size / 1e6:.0f} MB")
    assert size <= MAX_BYTES
    assert containers.inspect(gpu_image, ".Config.User") == "10001:10001"


def test_gpu_image_has_all_libraries_of_the_cuda_provider_but_the_driver(containers: Engine, gpu_image: str) -> None:
    providers, loaded = json.loads(in_image(containers, gpu_image, PYTHON, "-c", PRELOAD))
    assert "CUDAExecutionProvider" in providers
    names = {Path(each).name.partition(".so")[0] for each in loaded}
    assert names >= {"libcudart", "libcublas", "libcublasLt", "libcudnn", "libcufft", "libcurand"}
    linked = in_image(containers, gpu_image, "sh", "-c", LINKED)
    assert re.findall(r"(\S+) => not found", linked) == ["libcuda.so.1"], linked


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_gpu_image_answers_on_the_cpu_of_a_machine_without_a_gpu(containers: Engine, gpu_image: str, device: str) -> None:
    arguments = ("serve", "--workers", "1", "--device", device)
    containers.podman("run", "--detach", "--name", "on-cpu", "--publish", "8005:8001", *RESTRICTED, gpu_image, *arguments)
    await_ready(containers, "127.0.0.1:8005", "on-cpu")
    assert tasks_answered(containers, "127.0.0.1:8005") >= {"translation", "caption"}
    log = containers.podman("logs", "on-cpu", is_checked=False)
    assert "1 worker(s) on cpu" in log
    assert not any(word in log for word in ("ERROR", "CUDA", "libcuda")), log
    containers.podman("rm", "--force", "--time", "0", "on-cpu")


def test_gpu_image_says_why_it_cannot_use_cuda(containers: Engine, gpu_image: str) -> None:
    containers.podman("run", "--name", "on-cuda", *RESTRICTED, gpu_image, "serve", "--device", "cuda", is_checked=False)
    printed = containers.podman("logs", "on-cuda", is_checked=False)
    assert containers.inspect("on-cuda", ".State.ExitCode") == "1"
    reason = "libcuda.so.1: cannot open shared object file: No such file or directory"
    assert printed.splitlines()[-1] == f"error: the device 'cuda' cannot be used: {reason}", printed
    containers.podman("rm", "on-cuda")
