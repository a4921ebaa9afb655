# SPDX-License-Identifier: Apache-2.0
"""A server process under test: starts it on free ports, sends requests through raw stubs, reads its metrics."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from prometheus_client.parser import text_string_to_metric_families

from attnserve.v1 import decoding_pb2, model_pb2, model_pb2_grpc, translation_pb2, translation_pb2_grpc

MODELS = Path(os.environ.get("ATTNSERVE_MODELS", Path(__file__).parents[2] / "deploy" / "models"))
SENTENCES = (Path(__file__).parents[1] / "golden" / "sentences.en.txt").read_text(encoding="utf-8").splitlines()
LONG_TEXT = "red , " * 20
"""61 source pieces; greedy search runs to the model's limit of 128 steps."""
LONG_STEPS = 128
UNARY, STREAM = "unary", "stream"
LOOPBACK = "127.0.0.1"
START_S = 90
"""Longest start of a server; below the time of a test, which includes its fixtures'."""
OPTIONS = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]


class Samples:
    """One reading of /metrics."""

    def __init__(self, text: str) -> None:
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """Sum over the series of a sample name ("attnserve_slots", "…_count", "…_total") that carry these labels."""
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())

    def names(self) -> set[str]:
        return {sample.name for sample in self.samples}

    def labels(self, name: str) -> set[str]:
        return {label for sample in self.samples if sample.name == name for label in sample.labels}


def mean_between(before: Samples, after: Samples, histogram: str) -> float:
    """Mean of what a histogram observed between two readings."""
    count = after.total(f"{histogram}_count") - before.total(f"{histogram}_count")
    assert count > 0, f"{histogram} observed nothing"
    return (after.total(f"{histogram}_sum") - before.total(f"{histogram}_sum")) / count


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    grpc_port: int
    http_port: int
    workers: dict[str, int]
    log: Path
    host: str = LOOPBACK

    @property
    def target(self) -> str:
        return f"{self.host}:{self.grpc_port}"

    def channel(self) -> grpc.Channel:
        """Opens a separate connection, without retries."""
        return grpc.insecure_channel(self.target, options=OPTIONS)

    def http(self, path: str) -> tuple[int, str]:
        """Status and body of a GET."""
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.http_port}{path}", timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def scrape(self) -> Samples:
        return Samples(self.http("/metrics")[1])

    def children(self) -> list[int]:
        """Process ids of the running workers, and of the decoders of clips."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
                found += [int(pid) for pid in (task / "children").read_text().split()]
        return sorted(pid for pid in found if is_alive(pid))

    def assert_unharmed(self) -> None:
        """Checks that the front and its first workers still run, and that it answers probes."""
        assert self.process.poll() is None, self.tail()
        assert set(filter(is_worker, self.children())) == set(self.workers.values()), self.tail()
        assert self.http("/healthz")[0] == 200

    def tail(self) -> str:
        """The end of its log, for a failed assertion."""
        return self.log.read_text(errors="replace")[-3000:]


def is_worker(pid: int) -> bool:
    """Whether a child runs the worker's program already; until then the front waits for it in the kernel. False for one that ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return b"attnserve_server.engine.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


@contextlib.contextmanager
def serve(
    folder: Path,
    *flags: str,
    output: int | None = None,
    environment: Mapping[str, str] | None = None,
    host: str = LOOPBACK,
) -> Iterator[Server]:
    """Starts a server on free ports of an address of the loopback, yields it once ready, and ends it.

    Its output goes to ``output``, a descriptor, or else to a file in ``folder``; ``environment`` is added to its own.

    It serves only the default model, so that it starts faster, unless the flags name a repository.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup; servers would inherit it, and ignore SIGHUP too
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if "--models" not in flags:
        flags = (*flags, "--models", str(default_model_alone(folder)))
    ready, log = folder / "ready.json", folder / "server.log"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "attnserve_server", "--grpc-port", "0", "--http-port", "0", "--ready-file", str(ready)]
    command += ["--host", host, *flags] if host != LOOPBACK else flags
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ATTNSERVE_")} | dict(environment or {})
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=output or file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=variables
        )
    try:
        began = time.monotonic()
        while not ready.exists():
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < began + START_S, (
                f"the server was not ready after {START_S} s: {log.read_text(errors='replace')}"
            )
            time.sleep(0.02)
        facts = json.loads(ready.read_text())
        yield Server(process, facts["grpc_port"], facts["http_port"], facts["workers"], log, host)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait(10)


def default_model_alone(folder: Path) -> Path:
    """A model repository in ``folder`` with the default model of the project."""
    repository, name = folder / "models", "transformer-en-de"
    repository.mkdir(exist_ok=True)
    if not (repository / name).exists():
        (repository / name).symlink_to(MODELS / name, target_is_directory=True)
    return repository


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def eventually(condition: Callable[[], bool], what: str, seconds: float = 30.0, pause: float = 0.005) -> float:
    """Waits for a condition; returns the seconds it took. The limit is far above them: other load may stop a process for a while."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(pause)
    return time.monotonic() - began


def ask(
    channel: grpc.Channel,
    text: str,
    options: decoding_pb2.DecodeOptions | None = None,
    *,
    kind: str = UNARY,
    timeout: float = 60.0,
    **fields: Any,
) -> translation_pb2.TranslateResponse:
    """One translation, unary or the result of a stream; ``fields`` are further ones of the request."""
    stub = translation_pb2_grpc.TranslationServiceStub(channel)
    if kind == UNARY:
        return stub.Translate(translation_pb2.TranslateRequest(text=text, options=options, **fields), timeout=timeout)
    return list(start_stream(channel, text, timeout, options=options, **fields))[-1].result


def start_unary(
    channel: grpc.Channel, text: str, options: decoding_pb2.DecodeOptions | None = None, timeout: float = 60.0, **fields: Any
):
    """One unary translation, as a future."""
    stub = translation_pb2_grpc.TranslationServiceStub(channel)
    return stub.Translate.future(translation_pb2.TranslateRequest(text=text, options=options, **fields), timeout=timeout)


def start_stream(channel: grpc.Channel, text: str, timeout: float = 60.0, **fields: Any):
    """One streamed translation, as an iterator that can be cancelled."""
    stub = translation_pb2_grpc.TranslationServiceStub(channel)
    return stub.TranslateStream(translation_pb2.TranslateStreamRequest(text=text, **fields), timeout=timeout)


def wait_for_arrival(channel: grpc.Channel) -> None:
    """Returns once the front has what was sent on this connection before, requests and their ends: it reads them in their order."""
    model_pb2_grpc.ModelServiceStub(channel).ListModels(model_pb2.ListModelsRequest(), timeout=60)


def streamed(channel: grpc.Channel, text: str, options: decoding_pb2.DecodeOptions | None = None, **fields: Any) -> Streamed:
    """Reads a whole stream; checks what holds for every stream: deltas, then one result with the same text."""
    *deltas, last = list(start_stream(channel, text, options=options, **fields))
    assert all(message.WhichOneof("event") == "delta" for message in deltas)
    assert last.WhichOneof("event") == "result"
    best = last.result.hypotheses[0]
    assert "".join(message.delta.text for message in deltas) == best.text
    assert [piece for message in deltas for piece in message.delta.pieces] == list(best.pieces)
    return Streamed([message.delta for message in deltas], last.result)


@dataclass
class Streamed:
    """The messages of a stream."""

    deltas: list[translation_pb2.TranslationDelta]
    result: translation_pb2.TranslateResponse


def texts(answer: translation_pb2.TranslateResponse) -> list[str]:
    """The part of an answer that must not change from one run to the next."""
    return [hypothesis.text for hypothesis in answer.hypotheses]


@dataclass
class Details:
    """The details of an error beside its status."""

    reason: str = ""
    fields: tuple[str, ...] = ()
    retry_s: float | None = None


def details(error: grpc.RpcError) -> Details:
    """The ``google.rpc`` details of an error; checks that its two statuses agree."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    assert status.code == error.code().value[0]
    found = Details()
    for detail in status.details:
        for kind in (error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()):
            if not detail.Unpack(kind):
                continue
            if isinstance(kind, error_details_pb2.ErrorInfo):
                assert kind.domain == "attnserve"
                found.reason = kind.reason
            elif isinstance(kind, error_details_pb2.BadRequest):
                found.fields = tuple(violation.field for violation in kind.field_violations)
            else:
                found.retry_s = kind.retry_delay.ToNanoseconds() / 1e9
    return found
