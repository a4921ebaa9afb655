# SPDX-License-Identifier: Apache-2.0
"""Which requests are refused because the server stops: the one place that decides it, for the front and for the data plane."""

from __future__ import annotations

from collections.abc import Callable

from attnserve_server.errors import ShuttingDown


class Draining:
    """The state of a drain, from no drain at all to one whose time is over.

    Each request asks twice. Before its preparation, by the data plane: one that comes during a drain costs no work, and prolongs no
    drain that waits for others. After its preparation, by the front: a drain may have begun meanwhile, and its time may be over.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self._is_expecting: Callable[[], bool] = lambda: False

    def begin(self, is_expecting: Callable[[], bool]) -> None:
        """Refuses new requests from now on, and prepared ones once ``is_expecting`` says that none is being prepared."""
        self.has_begun = True
        self._is_expecting = is_expecting

    def end(self) -> None:
        """Refuses all requests from now on: the time of the drain is over, or there was none."""
        self.begin(lambda: False)

    def check(self, *, is_prepared: bool) -> None:
        """Checks that a request is admitted.

        Args:
            is_prepared: whether it has been prepared; if so, its preparation began before the drain.

        Raises:
            ShuttingDown: the drain does not wait for it.
        """
        if self.has_begun and not (is_prepared and self._is_expecting()):
            raise ShuttingDown("the server is shutting down")
