# SPDX-License-Identifier: Apache-2.0
"""Values that are read from files, and read again when these change: certificates and tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from attnserve_server.errors import TrustError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class ReloadRecorder(Protocol):
    """Counts reloads (``metrics.trust.TrustMetrics``)."""

    def reloaded(self, what: str) -> None:
        """Counts one reload."""
        ...

    def reload_failed(self, what: str) -> None:
        """Counts one changed file that could not be used."""
        ...


class Reloaded(Generic[T]):
    """A value from files. Any thread may read :attr:`value`; :meth:`check` belongs to the event loop.

    Args:
        what: name of the value, for the log and as a label.
        paths: the files; a change of any of them is noticed by its modification time, size or inode.
        read: reads them.
        recorder: counts reloads.

    Raises:
        TrustError: the files cannot be used.
    """

    def __init__(self, what: str, paths: Sequence[Path], read: Callable[[], T], recorder: ReloadRecorder) -> None:
        self._what, self._paths, self._read, self._recorder = what, paths, read, recorder
        self._seen = self._signature()
        self.value = read()

    def check(self) -> bool:
        """Reads the files again if they have changed; keeps the value if they cannot be used. Returns whether the value is new.

        A file that changes while it is read is read again by the next check.
        """
        seen = self._signature()
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            self.value = self._read()
        except TrustError as error:
            logger.error("%s not replaced, the previous ones stay in use: %s", self._what, error)
            self._recorder.reload_failed(self._what)
            return False
        logger.info("%s replaced", self._what)
        self._recorder.reloaded(self._what)
        return True

    def _signature(self) -> list[tuple[int, int, int] | None]:
        return [_signature(path) for path in self._paths]


def read_file(path: Path, max_bytes: int) -> bytes:
    """Returns the content of a file.

    Raises:
        TrustError: it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise TrustError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > max_bytes:
        raise TrustError(f"{path}: larger than {max_bytes} bytes")
    return content


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
