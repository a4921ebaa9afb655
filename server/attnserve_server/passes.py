# SPDX-License-Identifier: Apache-2.0
"""Content of the requests and answers of single-pass models, whose answer is one run of one graph.

Tensors are those of one request: without the graph's batch axis, row-major, in native byte order, of the type that the manifest
declares. The structs are as those of ``request.py``.
"""

from __future__ import annotations

from typing import cast

import msgspec

from attnserve_server.request import Done, Failed, Work


class PassTensor(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """A tensor of one request."""

    shape: tuple[int, ...]
    data: bytes
    """Its elements; a view of shared memory in a worker; empty while ``place`` says where they are."""
    place: tuple[int, int] | None = None
    """First byte in the memory that front and worker share, and number of bytes; None if the elements are in ``data``."""


Tensors = dict[str, PassTensor]


def num_bytes_of(tensors: Tensors) -> int:
    """Returns the size of all elements."""
    return sum(len(tensor.data) for tensor in tensors.values())


def placed(tensors: Tensors, memory: memoryview, begin: int) -> Tensors:
    """Writes tensors to shared memory, one after the other from ``begin`` on; returns them without their elements."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        end = begin + len(tensor.data)
        memory[begin:end] = tensor.data
        found[name] = PassTensor(tensor.shape, b"", (begin, end - begin))
        begin = end
    return found


def taken(tensors: Tensors, memory: memoryview, *, copies: bool) -> Tensors:
    """Returns tensors with the elements that :func:`placed` wrote: as copies, or as views of the memory."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        begin, size = tensor.place or (0, 0)
        view = memory[begin : begin + size]
        found[name] = PassTensor(tensor.shape, bytes(view) if copies else cast(bytes, view))
    return found


class PassPayload(msgspec.Struct, tag="pass", array_like=True, omit_defaults=True, gc=False):
    """Inputs of the graph by name, and whether its attention outputs are wanted.

    Only requests with the same shapes and the same wish share a batch.
    """

    inputs: dict[str, PassTensor]
    wants_attention: bool = False
    num_source: int = 1
    """Number of attended positions, in proportion to which the request costs time."""

    @property
    def num_bytes(self) -> int:
        """Size of the inputs."""
        return num_bytes_of(self.inputs)

    def placed(self, memory: memoryview, begin: int) -> PassPayload:
        """See :func:`placed`."""
        return msgspec.structs.replace(self, inputs=placed(self.inputs, memory, begin))

    def taken(self, memory: memoryview, *, copies: bool) -> PassPayload:
        """See :func:`taken`."""
        return msgspec.structs.replace(self, inputs=taken(self.inputs, memory, copies=copies))

    @property
    def num_rows(self) -> int:
        """See ``kinds.py: Payload``: a place in a batch."""
        return 1

    @property
    def num_pieces(self) -> int:
        """See ``kinds.py: Payload``: it has no text."""
        return 0

    @property
    def max_steps(self) -> int:
        """See ``kinds.py: Payload``: one run."""
        return 1

    @property
    def is_reproducible(self) -> bool:
        """See ``kinds.py: Payload``."""
        return True


class PassOutcome(msgspec.Struct, tag="pass", array_like=True, omit_defaults=True, gc=False):
    """Outputs of the graph by name; those that are attention only if they were wanted."""

    outputs: dict[str, PassTensor]
    batch_size: int = 1
    """Requests of its batch, this one included."""

    @property
    def num_generated(self) -> int:
        """See ``kinds.py: Outcome``: no token."""
        return 0

    @property
    def num_bytes(self) -> int:
        """Size of the outputs."""
        return num_bytes_of(self.outputs)

    def placed(self, memory: memoryview, begin: int) -> PassOutcome:
        """See :func:`placed`."""
        return PassOutcome(placed(self.outputs, memory, begin), self.batch_size)

    def taken(self, memory: memoryview, *, copies: bool) -> PassOutcome:
        """See :func:`taken`."""
        return PassOutcome(taken(self.outputs, memory, copies=copies), self.batch_size)

    def as_part(self, request_id: int) -> None:
        """See ``kinds.py: Outcome``: the kind does not stream."""
        return


PassWork = Work[PassPayload]
PassDone = Done[PassOutcome]
"""``admitted_at`` is the beginning of the batch's run and ``encode_s`` its duration; there is one step."""
PassEvent = Done[PassOutcome] | Failed
