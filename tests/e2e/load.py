# SPDX-License-Identifier: Apache-2.0
"""A steady load of short requests, whose failures are kept."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import grpc

from attnserve_client import AttnserveError
from tests.e2e.serving import SENTENCES, eventually


class Load:
    """One request after the other in each of some threads, from the beginning of its block to the end.

    Args:
        asks: for each thread, a function that sends a text and waits for the answer.
    """

    def __init__(self, *asks: Callable[[str], object]) -> None:
        self.num_answered, self.errors = 0, list[Exception]()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number, ask)) for number, ask in enumerate(asks)]

    def _run(self, number: int, ask: Callable[[str], object]) -> None:
        for text in itertools.cycle(SENTENCES[number:]):
            if self._stop.is_set():
                return
            try:
                ask(text)
            except (AttnserveError, grpc.RpcError) as error:
                self.errors.append(error)
                continue
            with self._lock:
                self.num_answered += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def wait_for(self, number: int) -> None:
        """Waits for so many further answers."""
        goal = self.num_answered + number
        eventually(lambda: self.num_answered >= goal, f"{number} answers", 60, 0.02)
