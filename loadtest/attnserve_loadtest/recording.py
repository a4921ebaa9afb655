# SPDX-License-Identifier: Apache-2.0
"""Latencies of a run by name, beside Locust's own statistics; those of worker processes come to the master with their reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from locust.env import Environment

from attnserve_loadtest.percentiles import Latencies

_KEY = "attnserve_latencies"


class Recording:
    """Latencies by name."""

    def __init__(self) -> None:
        self.latencies: dict[str, Latencies] = {}

    def add(self, name: str, seconds: float) -> None:
        """Counts one."""
        self.latencies.setdefault(name, Latencies()).add(seconds)

    def take(self) -> dict[str, Any]:
        """All since the last call, as plain values."""
        taken, self.latencies = self.latencies, {}
        return {name: each.to_wire() for name, each in taken.items()}

    def merge(self, wire: Mapping[str, Any]) -> None:
        """Counts what another process took."""
        for name, each in wire.items():
            self.latencies.setdefault(name, Latencies()).merge(Latencies.from_wire(each))


_RECORDINGS: WeakKeyDictionary[Environment, Recording] = WeakKeyDictionary()


def of(environment: Environment) -> Recording:
    """The recording of an environment, made when it is first asked for."""
    if environment not in _RECORDINGS:
        recording = _RECORDINGS[environment] = Recording()
        environment.events.report_to_master.add_listener(lambda client_id, data: data.update({_KEY: recording.take()}))
        environment.events.worker_report.add_listener(lambda client_id, data: recording.merge(data.get(_KEY, {})))
    return _RECORDINGS[environment]
